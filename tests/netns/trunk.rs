//! A trunk port: one device, several segments.

use anyhow::{Result, ensure};
use lab::config::{Port, Segment};
use lab::daemon::Daemon;
use lab::overlay::{Overlay, Plan, access_port, pod};
use lab::traffic::frames::{BROADCAST, EXPERIMENTAL, Frames, frame};

use crate::common::{row, tapestry};

/// An experimental frame to everybody, in a VLAN.
fn tagged(from: [u8; 6], vlan: u16, text: &str) -> Vec<u8> {
    let tag = [&vlan.to_be_bytes()[..], &EXPERIMENTAL.to_be_bytes(), text.as_bytes()].concat();
    frame(BROADCAST, from, 0x8100, &tag)
}

pub(crate) fn each_vlan_reaches_its_segment_and_no_other() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    let (trunk, green) = (pod(&overlay.world, 1, 5)?, pod(&overlay.world, 2, 5)?);
    for index in [0, 1] {
        let peer = overlay.nodes[1 - index].vtep(false);
        overlay.configs[index].segments.push(Segment::new("green", 200, &[peer]));
    }
    overlay.configs[0].ports.push(Port {
        segment: None,
        addresses: Vec::new(),
        extra: "native = \"green\"\ntrunk = [{ vlan = 10, segment = \"blue\" }]".to_owned(),
        ..access_port("trunk", &trunk)
    });
    let mut port = access_port("green-pod", &green);
    port.segment = Some("green".to_owned());
    overlay.configs[1].ports.push(port);
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
    }

    let t = Frames::open(&trunk.space, "eth0")?;
    let near = Frames::open(&overlay.pods[0][0].space, "eth0")?;
    let far = Frames::open(&overlay.pods[1][0].space, "eth0")?;
    let g = Frames::open(&green.space, "eth0")?;

    // Out of the trunk: VLAN 10 is blue, no tag is green, VLAN 11 is nothing.
    let before = overlay.daemons[0].drops("vlan_unknown")?;
    t.send(&tagged(t.mac(), 11, "in nothing"))?;
    t.send(&tagged(t.mac(), 10, "in blue"))?;
    t.say(BROADCAST, "in green")?;
    t.send(&tagged(t.mac(), 10, "end"))?;
    t.say(BROADCAST, "end")?;
    for (name, listener, want) in
        [("near", &near, "in blue"), ("far", &far, "in blue"), ("green", &g, "in green")]
    {
        let heard = listener.heard_until("end")?;
        ensure!(heard == [want], "{name} heard {heard:?}, not `{want}`");
    }
    ensure!(overlay.daemons[0].drops("vlan_unknown")? == before + 1);

    // Into the trunk: both segments, each frame once.
    far.say(BROADCAST, "from blue")?;
    far.say(BROADCAST, "blue end")?;
    ensure!(t.heard_until("blue end")?.iter().filter(|text| *text == "from blue").count() == 1);
    g.say(BROADCAST, "from green")?;
    g.say(BROADCAST, "green end")?;
    ensure!(t.heard_until("green end")?.iter().filter(|text| *text == "from green").count() == 1);

    let row = row(&overlay.daemons[0], "port list", "name", "trunk")?;
    ensure!(row["trunk"][0]["vlan"] == 10 && row["trunk"][0]["segment"] == "blue", "{row}");
    overlay.assert_sound()
}
