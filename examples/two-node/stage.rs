//! The nodes, the pods and the daemons of the demo.

use std::env;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use lab::config::{Config, Segment};
use lab::daemon::{Daemon, Program};
use lab::overlay::{Node, Pod, SEGMENT, UNDERLAY, VNI, access_port, pod};
use lab::world::World;

use crate::{AS_TAPESTRY, show};

/// Fields are dropped in this order: daemons first.
pub(crate) struct Stage {
    daemons: Vec<(&'static str, Daemon)>,
    pub(crate) pod_a: Pod,
    pub(crate) pod_b: Pod,
    nodes: [Node; 2],
    _world: World,
}

impl Stage {
    pub(crate) fn build() -> Result<Self> {
        let world = World::new();
        let node = |number: u8| -> Result<Node> {
            Ok(Node {
                space: world.space(&format!("node-{}", ["a", "b"][usize::from(number - 1)]))?,
                v4: [192, 0, 2, number].into(),
                v6: [0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()].into(),
            })
        };
        let nodes = [node(1)?, node(2)?];
        world.veth((&nodes[0].space, UNDERLAY), (&nodes[1].space, UNDERLAY), 1500)?;
        for node in &nodes {
            node.space.address(UNDERLAY, IpNet::new(node.v4.into(), 24)?)?;
        }
        let (pod_a, pod_b) = (pod(&world, 1, 1)?, pod(&world, 2, 1)?);
        Ok(Self { daemons: Vec::new(), pod_a, pod_b, nodes, _world: world })
    }

    pub(crate) fn start_daemons(&mut self) -> Result<()> {
        let program = Program { path: env::current_exe()?, first: vec![AS_TAPESTRY.to_owned()] };
        let [a, b] = &self.nodes;
        let plan = [("node-a", a, b, "pod-a", &self.pod_a), ("node-b", b, a, "pod-b", &self.pod_b)];
        for (name, node, other, port, pod) in plan {
            let mut config = Config::new(name, node.v4.into());
            config.segments.push(Segment::new(SEGMENT, VNI, &[other.v4.into()]));
            config.ports.push(access_port(port, pod));
            let mut daemon = Daemon::prepare(&program, &node.space)?;
            daemon.flag("--ephemeral");
            daemon.configure(&config)?;
            let took = daemon.launch().with_context(|| format!("start the daemon of {name}"))?;
            println!("  {name}: ready after {}", show::milliseconds(&took));
            self.daemons.push((name, daemon));
        }
        Ok(())
    }

    pub(crate) fn daemons(&self) -> impl Iterator<Item = (&'static str, &Daemon)> {
        self.daemons.iter().map(|(name, daemon)| (*name, daemon))
    }

    /// Commands that reach into the cell from outside.
    pub(crate) fn print_keys(&self) {
        let enter = show::way_in();
        let program = env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
        for (name, daemon) in self.daemons() {
            println!(
                "  {name}: {enter} {program} {AS_TAPESTRY} --socket {} fdb list",
                daemon.socket()
            );
        }
        for (name, pod, other) in
            [("pod-a", &self.pod_a, &self.pod_b), ("pod-b", &self.pod_b, &self.pod_a)]
        {
            println!(
                "  {name}: {enter} ip netns exec {} ping {}",
                pod.space.name(),
                other.v4.addr()
            );
        }
        for (name, daemon) in self.daemons() {
            println!("  {name}: {enter} cat {}", daemon.config_path().display());
        }
    }

    /// Stops the daemons, which take their ports with them.
    pub(crate) fn stop(mut self) -> Result<()> {
        for (_, daemon) in &mut self.daemons {
            daemon.stop()?;
        }
        for pod in [&self.pod_a, &self.pod_b] {
            ensure!(pod.space.link("eth0").is_err(), "a daemon left its port behind");
        }
        Ok(())
    }
}
