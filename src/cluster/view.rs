//! From a membership to what the rest of the program sees of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::membership::{Membership, Standing};
use super::model::{Alarm, Node, View};

/// How many alarms a view holds; a further one says how many are missing.
const MAX_ALARMS: usize = 256;
/// How many names a message lists.
const MAX_NAMES: usize = 5;

impl Membership {
    /// Everything that is known, as it is now.
    #[must_use]
    pub fn view(&mut self) -> View {
        self.view_taken();
        let mut alarms = self.own_alarms();
        self.object_alarms(&mut alarms);
        let routes = self.routes(&mut alarms);
        let others = self
            .members()
            .filter(|(key, _)| self.own_key.as_deref() != Some(*key))
            .map(|(_, entry)| (entry.node.name.clone(), entry.node.clone()))
            .collect();
        if alarms.len() > MAX_ALARMS {
            let more = format!("and {} more", alarms.len() - MAX_ALARMS);
            alarms.truncate(MAX_ALARMS);
            alarms.push(Alarm { subject: "alarms".to_owned(), message: more });
        }
        View { own: self.own_node(), others, routes, alarms, store: self.store.clone() }
    }

    /// This node, if it is a member and has a share.
    fn own_node(&self) -> Option<Node> {
        let (_, entry) = self.own_entry()?;
        let is_complete = entry.standing == Standing::Member && !entry.node.pod_cidrs.is_empty();
        is_complete.then(|| entry.node.clone())
    }

    fn own_alarms(&self) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for (about, what) in &self.notes {
            alarms.push(Alarm { subject: (*about).to_owned(), message: what.clone() });
        }
        let mut say = |message| alarms.push(Alarm { subject: self.own.name.clone(), message });
        if let Some(why) = &self.refused {
            say(format!("this node is refused: {why}"));
        }
        match self.own_entry() {
            Some((key, entry)) => {
                if let Standing::Refused(refusal) = &entry.standing {
                    say(format!("this node ({key}) is refused: {}", refusal.why));
                }
                if self.own_deleted {
                    say(format!("this node's record ({key}) is missing in the store; it is kept"));
                }
            }
            None => {
                if let Some(holder) = self.vteps.get(&self.own.vtep.ip()) {
                    let name = self.entries.get(holder).map_or(holder, |entry| &entry.node.name);
                    let address = self.own.vtep.ip();
                    say(format!(
                        "this node's VTEP address {address} is held by node \"{name}\" ({holder})"
                    ));
                }
            }
        }
        alarms
    }

    fn object_alarms(&self, alarms: &mut Vec<Alarm>) {
        let held = self.guard.held();
        if held.len() > 0 {
            let count = held.len();
            let mut names: Vec<&str> = held.take(MAX_NAMES).collect();
            if count > MAX_NAMES {
                names.push("…");
            }
            let message = format!(
                "{count} nodes are missing in the store all at once ({}); they are kept until a \
                 later list or an operator confirms it",
                names.join(", ")
            );
            alarms.push(Alarm { subject: "deletions".to_owned(), message });
        }
        for (key, what) in &self.malformed {
            let kept =
                if self.entries.contains_key(key) { "; what it said before stays" } else { "" };
            let message = format!("the object makes no sense: {what}{kept}");
            alarms.push(Alarm { subject: key.clone(), message });
        }
        let mut said: Vec<_> = self.entries.iter().collect();
        said.sort_by_key(|(_, entry)| entry.sequence);
        for (key, entry) in said {
            let is_own = self.own_key.as_ref() == Some(key);
            if let Standing::Refused(refusal) = &entry.standing
                && !is_own
            {
                let message = format!("node \"{}\" is refused: {}", entry.node.name, refusal.why);
                alarms.push(Alarm { subject: key.clone(), message });
                continue;
            }
            for remark in &entry.remarks {
                let message = format!("not routed to node \"{}\": {remark}", entry.node.name);
                alarms.push(Alarm { subject: key.clone(), message });
            }
        }
    }

    fn routes(&self, alarms: &mut Vec<Alarm>) -> Vec<(IpNet, SocketAddr)> {
        let own = self.own_key.as_deref();
        let mut routes: BTreeMap<IpNet, SocketAddr> = BTreeMap::new();
        for (_, entry) in self.members().filter(|(key, _)| Some(*key) != own) {
            routes.extend(entry.node.pod_cidrs.iter().map(|cidr| (*cidr, entry.node.vtep)));
        }
        let vtep = |key: &str| self.entries.get(key).map(|entry| entry.node.vtep);
        for (address, claims) in self.hosts.iter() {
            let holder = self.vteps.get(&address).or_else(|| claims.first());
            let is_own = self.is_own_address(address);
            let holder = if is_own { own } else { holder.map(String::as_str) };
            for loser in claims.iter().filter(|claim| Some(claim.as_str()) != holder) {
                let message = format!("the address {address} is {}'s", self.name_of(holder));
                alarms.push(Alarm { subject: loser.clone(), message });
            }
            if let Some(holder) = holder
                && Some(holder) != own
                && let Some(vtep) = vtep(holder)
            {
                routes.insert(IpNet::from(address), vtep);
            }
        }
        for (net, holder, losers) in self.exceptions.iter() {
            for loser in losers {
                let message =
                    format!("{net} is {}'s by the same generation", self.name_of(Some(holder)));
                alarms.push(Alarm { subject: loser.to_owned(), message });
            }
            if Some(holder) == own {
                continue;
            }
            let mine =
                std::iter::once(self.own.vtep.ip()).chain(self.own.addresses.iter().copied());
            let taken = if self.shares.has(&net) || routes.contains_key(&net) {
                Some("is another node's podCIDR or address")
            } else if mine.into_iter().any(|address| net.contains(&address)) {
                Some("holds an address of this node")
            } else {
                None
            };
            match (taken, vtep(holder)) {
                (None, Some(vtep)) => {
                    routes.insert(net, vtep);
                }
                (Some(taken), _) => {
                    let message = format!("the exception {net} is not routed: it {taken}");
                    alarms.push(Alarm { subject: holder.to_owned(), message });
                }
                (None, None) => {}
            }
        }
        routes.into_iter().collect()
    }

    fn is_own_address(&self, address: IpAddr) -> bool {
        let held = self.own_entry().is_some_and(|(_, entry)| entry.standing == Standing::Member);
        (held && self.own.vtep.ip() == address) || self.own.addresses.contains(&address)
    }

    fn name_of(&self, key: Option<&str>) -> String {
        let Some(key) = key else { return format!("node \"{}\"", self.own.name) };
        self.entries
            .get(key)
            .map_or_else(|| key.to_owned(), |entry| format!("node \"{}\"", entry.node.name))
    }
}
