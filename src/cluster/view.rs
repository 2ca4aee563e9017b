//! From a membership to what the rest of the program sees of it.
//!
//! A view shares with the one before it what is the same in both. What may be different is noted
//! when it changes, and looked at when the next view is taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use switch::SharedMap;

use super::membership::{Membership, Standing};
use super::model::{Alarm, Node, View};

/// How many alarms a view holds; a further one says how many are missing.
const MAX_ALARMS: usize = 256;
/// How many names a message lists.
const MAX_NAMES: usize = 5;

/// What the last view has said, and what of it may be different by now.
#[derive(Debug, Default)]
pub(super) struct Shown {
    others: SharedMap<String, Arc<Node>>,
    routes: SharedMap<IpNet, SocketAddr>,
    /// By which name an object is among the others.
    names: HashMap<String, String>,
    /// What is to be said of objects, with their places in the order in which they came.
    objects: BTreeMap<String, (u64, Vec<Alarm>)>,
    /// What is to be said of networks and addresses.
    nets: BTreeMap<IpNet, Vec<Alarm>>,
    touched: Touched,
}

/// What may be different.
#[derive(Debug, Default)]
struct Touched {
    all: bool,
    objects: BTreeSet<String>,
    nets: BTreeSet<IpNet>,
}

impl Shown {
    /// Something has changed that everything depends on.
    pub(super) const fn touch_all(&mut self) {
        self.touched.all = true;
    }

    /// An object has come, has gone, or is another one.
    pub(super) fn touch_object(&mut self, key: &str) {
        self.touched.objects.insert(key.to_owned());
    }

    /// A member claims something else than before; `None`: nothing.
    pub(super) fn touch_routes(&mut self, old: Option<&Node>, new: Option<&Node>) {
        let (before, after) = (claims(old), claims(new));
        let same_node = match (old, new) {
            (Some(old), Some(new)) => old.vtep == new.vtep && old.name == new.name,
            _ => false,
        };
        let nets = before.iter().filter(|claim| !same_node || !after.contains(*claim));
        self.touched.nets.extend(nets.map(|(net, _)| *net));
        let nets = after.iter().filter(|claim| !same_node || !before.contains(*claim));
        self.touched.nets.extend(nets.map(|(net, _)| *net));
    }
}

/// Every network that a node claims, and with which generation: of one that it names twice the last.
fn claims(node: Option<&Node>) -> BTreeSet<(IpNet, u64)> {
    let Some(node) = node else { return BTreeSet::new() };
    let own = std::iter::once(node.vtep.ip()).chain(node.addresses.iter().copied());
    let nets = node.pod_cidrs.iter().copied().chain(own.map(IpNet::from)).map(|net| (net, 0));
    let exceptions: BTreeMap<IpNet, u64> =
        node.exceptions.iter().map(|one| (one.net, one.generation)).collect();
    nets.chain(exceptions).collect()
}

impl Membership {
    /// Everything that is known, as it is now.
    #[must_use]
    pub fn view(&mut self) -> View {
        self.changed = false;
        self.look_again();
        let mut alarms = self.own_alarms();
        self.object_alarms(&mut alarms);
        alarms.extend(self.shown.nets.values().flatten().cloned());
        if alarms.len() > MAX_ALARMS {
            let more = format!("and {} more", alarms.len() - MAX_ALARMS);
            alarms.truncate(MAX_ALARMS);
            alarms.push(Alarm { subject: "alarms".to_owned(), message: more });
        }
        View {
            own: self.own_node(),
            others: self.shown.others.clone(),
            routes: self.shown.routes.clone(),
            alarms,
            store: self.store.clone(),
        }
    }

    /// Looks at what may be different since the last view.
    fn look_again(&mut self) {
        let mut touched = std::mem::take(&mut self.shown.touched);
        if touched.all {
            self.shown = Shown::default();
            touched.objects = self.entries.keys().cloned().collect();
            touched.nets = self.shares.nets().chain(self.exceptions.nets()).collect();
            touched.nets.extend(self.hosts.addresses().map(IpNet::from));
        }
        // Who has gone gives its name up before somebody else is seen to have it.
        for key in &touched.objects {
            if let Some(name) = self.shown.names.remove(key) {
                self.shown.others.remove(&name);
            }
            self.shown.objects.remove(key);
        }
        for key in touched.objects {
            self.look_at_object(key);
        }
        for net in touched.nets {
            let (route, alarms) = self.way_to(&net);
            match route {
                Some(vtep) => self.shown.routes.insert(net, vtep),
                None => self.shown.routes.remove(&net),
            };
            if alarms.is_empty() {
                self.shown.nets.remove(&net);
            } else {
                self.shown.nets.insert(net, alarms);
            }
        }
    }

    fn look_at_object(&mut self, key: String) {
        let Some(entry) = self.entries.get(&key) else { return };
        let is_own = self.own_key.as_ref() == Some(&key);
        let node = &entry.node;
        let alarm = |message| Alarm { subject: key.clone(), message };
        let alarms: Vec<Alarm> = match &entry.standing {
            Standing::Refused(refusal) if !is_own => {
                vec![alarm(format!("node \"{}\" is refused: {}", node.name, refusal.why))]
            }
            _ => {
                let remarks = entry.remarks.iter();
                let say = |remark| alarm(format!("not routed to node \"{}\": {remark}", node.name));
                remarks.map(say).collect()
            }
        };
        if entry.standing == Standing::Member && !is_own {
            self.shown.others.insert(node.name.clone(), Arc::clone(node));
            self.shown.names.insert(key.clone(), node.name.clone());
        }
        if !alarms.is_empty() {
            self.shown.objects.insert(key, (entry.sequence, alarms));
        }
    }

    /// This node, if it is a member and has a share.
    fn own_node(&self) -> Option<Node> {
        let (_, entry) = self.own_entry()?;
        let is_complete = entry.standing == Standing::Member && !entry.node.pod_cidrs.is_empty();
        is_complete.then(|| Node::clone(&entry.node))
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
        let mut said: Vec<_> = self.shown.objects.values().collect();
        said.sort_by_key(|(sequence, _)| *sequence);
        alarms.extend(said.into_iter().flat_map(|(_, alarms)| alarms).cloned());
    }

    /// Where exactly this network is, unless it is nowhere or here, and what is to be said of it.
    fn way_to(&self, net: &IpNet) -> (Option<SocketAddr>, Vec<Alarm>) {
        let own = self.own_key.as_deref();
        let vtep = |key: &str| self.entries.get(key).map(|entry| entry.node.vtep);
        let elsewhere = |key: &str| if Some(key) == own { None } else { vtep(key) };
        let mut alarms = Vec::new();
        let mut say = |subject: &str, message| {
            alarms.push(Alarm { subject: subject.to_owned(), message });
        };
        let mut way = self.shares.holder(net).and_then(elsewhere);
        if net.prefix_len() == net.max_prefix_len() {
            let address = net.addr();
            let claims = self.hosts.claims(address);
            let first = self.vteps.get(&address).or_else(|| claims.first());
            let is_own = self.is_own_address(address);
            let holder = if is_own { own } else { first.map(String::as_str) };
            for loser in claims.iter().filter(|claim| Some(claim.as_str()) != holder) {
                say(loser, format!("the address {address} is {}'s", self.name_of(holder)));
            }
            if !claims.is_empty()
                && let Some(vtep) = holder.and_then(elsewhere)
            {
                way = Some(vtep);
            }
        }
        if let Some((holder, losers)) = self.exceptions.right(net) {
            for loser in losers {
                let holder = self.name_of(Some(holder));
                say(loser, format!("{net} is {holder}'s by the same generation"));
            }
            let mut mine =
                std::iter::once(self.own.vtep.ip()).chain(self.own.addresses.iter().copied());
            let taken = if self.shares.holder(net).is_some() || way.is_some() {
                Some("is another node's podCIDR or address")
            } else if mine.any(|address| net.contains(&address)) {
                Some("holds an address of this node")
            } else {
                None
            };
            match taken {
                _ if Some(holder) == own => {}
                None => way = vtep(holder),
                Some(taken) => {
                    say(holder, format!("the exception {net} is not routed: it {taken}"));
                }
            }
        }
        (way, alarms)
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
