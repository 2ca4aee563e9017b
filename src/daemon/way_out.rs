//! What this node's own kernel does for its pods: plain routes to other nodes, the settings of the
//! gateway device, and the rules of address translation. Each is given again when it has changed,
//! when it could not be given before, and the routes now and then.

use std::collections::BTreeMap;

use tracing::{debug, info, warn};

use super::obstacles::Obstacles;
use super::pods::Pods;
use super::ports::Attachment;
use super::state::Daemon;
use crate::attach::{self, HostPort};
use crate::config::{Local, Mode};
use crate::gateway::keeper::{Keeper, KeeperState};
use crate::gateway::mapping::Mapping;
use crate::gateway::ruleset::{Ruleset, RulesetError};
use crate::gateway::ways::Direct;
use crate::privilege::Hands;

/// Ticks between two looks at what stands in the way.
const LOOK_AFTER: u64 = 60;

/// Ticks after which what the kernel refused is tried again.
const RETRY_AFTER: u64 = 5;

/// What this node's kernel was given, and what came of it.
#[derive(Debug, Default)]
pub(super) struct WayOut {
    /// The routes that stand; `None`: they are to be given.
    routes: Option<Vec<Direct>>,
    /// The gateway device whose settings were made.
    tuned: Option<u32>,
    /// The port mappings in the rules that were asked for last; `None`: they are to be asked for.
    mapped: Option<Vec<Mapping>>,
    /// What keeps the rules, once some were asked for.
    keeper: Option<Keeper>,
    /// Whether the kernel tells it of changes.
    told: bool,
    /// What the kernel refused, by what it is about.
    troubles: BTreeMap<&'static str, String>,
    /// What stands in the way on this node.
    obstacles: Obstacles,
    /// The gateway device that was there when that was looked for.
    looked: Option<u32>,
}

impl WayOut {
    /// The cluster or the ways in it are others now: what follows from them is given again.
    pub(super) fn changed(&mut self) {
        (self.routes, self.mapped) = (None, None);
    }

    /// Something may have taken the routes away.
    pub(super) fn routes_may_be_gone(&mut self) {
        self.routes = None;
    }

    /// Where the kernel's word about the rules could not be had before, and can be now, their keeper
    /// begins anew with it.
    fn listen_again(&mut self, hands: &Hands) {
        if self.keeper.is_some() && !self.told && hands.listen().is_ok() {
            (self.keeper, self.mapped) = (None, None);
        }
    }

    /// Whether the rules stand, or it is known why they do not: until then a pod's first connection
    /// could leave the node with an address that nobody else knows.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.keeper.as_ref().map(Keeper::state).unwrap_or_default();
        state.stands || state.trouble.is_some() || self.troubles.contains_key("rules")
    }

    /// How often other rules were asked for.
    pub(super) fn asked(&self) -> u64 {
        self.keeper.as_ref().map(Keeper::asked).unwrap_or_default()
    }

    /// Ends when the rules that were asked for last stand, or it is known why they do not.
    pub(super) fn rules_dealt_with(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.keeper.as_ref().map(Keeper::dealt_with)
    }

    /// What is the matter, in words.
    pub(super) fn alarms(&self) -> Vec<String> {
        let KeeperState { trouble, .. } =
            self.keeper.as_ref().map(Keeper::state).unwrap_or_default();
        let troubles = self.troubles.iter().map(|(what, why)| format!("{what}: {why}"));
        let rules = trouble.map(|why| format!("rules: {why}"));
        troubles.chain(rules).chain(self.obstacles.words()).collect()
    }

    /// Notes what came of something; what went wrong is told once.
    fn note(&mut self, what: &'static str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                if self.troubles.remove(what).is_some() {
                    info!("{what}: all is well again");
                }
            }
            Err(why) => {
                if self.troubles.get(what) != Some(&why) {
                    warn!("{what}: {why}");
                }
                self.troubles.insert(what, why);
            }
        }
    }

    fn settle_routes(&mut self, hands: &Hands, wanted: &[Direct]) {
        if self.routes.as_deref() == Some(wanted) {
            return;
        }
        let outcome = match hands.reconcile(wanted) {
            Ok(done) => {
                self.routes = Some(wanted.to_owned());
                let blocked: Vec<_> =
                    done.blocked.iter().map(|one| one.route.to.to_string()).collect();
                if blocked.is_empty() {
                    Ok(())
                } else {
                    Err(format!("another route stands in the way to {}", blocked.join(", ")))
                }
            }
            Err(error) => {
                self.routes = None;
                Err(error.to_string())
            }
        };
        self.note("routes to other nodes", outcome);
    }

    fn settle_device(&mut self, hands: &Hands, ifindex: u32) {
        if self.tuned == Some(ifindex) {
            return;
        }
        let outcome = hands.tune(ifindex).map_err(|error| error.to_string());
        self.tuned = outcome.is_ok().then_some(ifindex);
        self.note("settings of the gateway", outcome);
    }

    /// Asks for other rules if these are not the ones that were asked for. Who keeps them tries
    /// again by itself.
    fn settle_table(
        &mut self,
        hands: &Hands,
        rules: impl FnOnce(&[Mapping]) -> Result<Ruleset, RulesetError>,
        mappings: Vec<Mapping>,
    ) {
        if self.mapped.as_ref() == Some(&mappings) {
            return;
        }
        let outcome = match rules(&mappings) {
            Ok(rules) => self.ask_for(hands, rules),
            Err(RulesetError::NoOwnNode) => return,
            Err(error) => Err(error.to_string()),
        };
        self.mapped = outcome.is_ok().then_some(mappings);
        self.note("rules", outcome);
    }

    fn ask_for(&mut self, hands: &Hands, rules: Ruleset) -> Result<(), String> {
        for mapping in rules.ignored() {
            warn!("port mapping {mapping}: another pod has this port of the node");
        }
        let keeper = match self.keeper.take() {
            Some(keeper) => keeper,
            None => {
                let stirs = hands
                    .listen()
                    .inspect_err(|error| debug!("rules: changes are looked for: {error}"));
                self.told = stirs.is_ok();
                Keeper::start(hands.clone(), stirs.ok()).map_err(|error| error.to_string())?
            }
        };
        self.keeper.insert(keeper).want(rules);
        Ok(())
    }
}

impl Pods {
    /// Whether it counts which networks this node is directly in.
    pub(super) const fn uses_subnets(&self) -> bool {
        self.config.direct_routing || matches!(self.config.mode, Mode::Route)
    }
}

impl Daemon {
    /// Has this node's kernel do what follows from the cluster and its pods. While the helper is
    /// away all of it waits.
    pub(super) fn settle_way_out(&mut self) {
        let mappings = self.mappings();
        let hands = &self.devices.hands;
        let Some(pods) = &mut self.pods else { return };
        if hands.trouble().is_some() {
            return;
        }
        let gateway = self.ports.get(pods.config.gateway.as_str()).and_then(Attachment::facts);
        let Pods { config, view, census, ways, way_out, .. } = pods;
        // Of a cluster that nothing is known of yet, what stood before the start stays.
        if view.own.is_some() || !view.routes.is_empty() {
            way_out.settle_routes(hands, &ways.routes);
        }
        if let Some(gateway) = gateway {
            way_out.settle_device(hands, gateway.ifindex);
        }
        let rules =
            |mappings: &[Mapping]| Ruleset::new(config, view.own.as_ref(), census, ways, mappings);
        way_out.settle_table(hands, rules, mappings);
    }

    /// Looks after what the kernel was given. `count` counts the ticks.
    pub(super) fn tick_way_out(&mut self, count: u64) {
        let now_and_then = count % LOOK_AFTER == 1;
        self.look_for_obstacles(now_and_then);
        if let Some(pods) = self.pods.as_mut().filter(|_| now_and_then) {
            pods.way_out.routes_may_be_gone();
            pods.way_out.listen_again(&self.devices.hands);
        }
        let troubled = self.pods.as_ref().is_some_and(|pods| !pods.way_out.troubles.is_empty());
        if !troubled || count.is_multiple_of(RETRY_AFTER) {
            self.settle_way_out();
        }
    }

    /// A device or an address of this node has changed: other nodes may be reached in other ways,
    /// and the kernel takes the routes through a device that went down away without a word.
    pub(super) fn follow_subnets(&mut self) {
        let Some(pods) = self.pods.as_mut().filter(|pods| pods.uses_subnets()) else { return };
        pods.way_out.routes_may_be_gone();
        let before = pods.ways.clone();
        pods.find_ways();
        if pods.ways != before {
            pods.way_out.changed();
            info!("the ways to other nodes have changed");
            self.follow_ways();
        }
    }

    /// Looks whether anything stands in the way: `anyway`, or if the gateway port's device is another
    /// one than before.
    fn look_for_obstacles(&mut self, anyway: bool) {
        let Some(pods) = &mut self.pods else { return };
        let gateway = self.ports.get(pods.config.gateway.as_str()).and_then(Attachment::facts);
        let Some(gateway) = gateway else { return };
        if pods.way_out.looked == Some(gateway.ifindex) && !anyway {
            return;
        }
        pods.way_out.looked = Some(gateway.ifindex);
        let underlay = match &self.config.underlay.local {
            Local::Interface(name) => Some(name.to_string()),
            Local::Address(_) => None,
        };
        let (hands, obstacles) = (&self.devices.hands, &pods.way_out.obstacles);
        obstacles.look(hands, &pods.config, gateway.ifindex, underlay);
    }

    /// The ports of this node that lead to its pods.
    fn mappings(&self) -> Vec<Mapping> {
        let pods = self.ports.values().filter_map(|held| held.port.pod.as_ref());
        let of = |pod: &attach::Pod| {
            let addresses = pod.addresses.clone();
            let mapping = move |port: &HostPort| {
                Mapping::of_pod(
                    port.protocol,
                    port.host_ip,
                    port.host_port,
                    &addresses,
                    port.container_port,
                )
            };
            pod.host_ports.iter().flat_map(mapping).collect::<Vec<_>>()
        };
        pods.flat_map(of).collect()
    }
}
