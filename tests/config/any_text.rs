//! Whatever the file holds, there is an answer.

use super::*;

/// Lines that a configuration may have, right and wrong, in any order.
fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "vni",
        "peers",
        "port",
        "address",
        "segment",
        "trunk",
        "mtu",
        "mac",
        "routes",
        "addresses",
        "dscp",
        "aging",
        "multicast",
        "ifname",
        "netns",
        "\"\"",
        "a.b",
        "x",
    ]);
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "0xffffffffffffffffffffffff",
        "\"blue\"",
        "\"\"",
        "true",
        "[]",
        "[[]]",
        "{}",
        "[{}]",
        "1.5",
        "inf",
        "1979-05-27",
        "\"192.0.2.1\"",
        "[\"192.0.2.1\", 3]",
        "[{ vlan = 1, segment = \"blue\" }]",
        "\"\\u0000\"",
        "'é'",
        "[1, [2, [3]]]",
    ]);
    let header = prop::sample::select(vec![
        "[node]",
        "[underlay]",
        "[[segment]]",
        "[[port]]",
        "[segment]",
        "[port]",
        "[[underlay]]",
        "[port.trunk]",
        "[[port.trunk]]",
        "[offload]",
        "[control]",
        "[metrics]",
        "[state]",
        "[x]",
    ]);
    prop_oneof![
        (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        header.prop_map(str::to_owned),
    ]
}

/// Whatever the text, the answer is a configuration or at least one problem, and can be shown.
fn answered(text: &str) {
    if let Err(error) = Config::parse(text) {
        assert!(!error.problems().is_empty());
        let mut paths = HashSet::new();
        for problem in error.problems() {
            assert!(!problem.message.contains('\n'), "{problem:?}");
            assert!(problem.path.is_empty() || paths.insert(&problem.path), "{problem:?} twice");
        }
        assert!(!render_error(&error).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        answered(&text);
    }

    #[test]
    fn any_lines_are_answered(lines in prop::collection::vec(line(), 0..24)) {
        answered(&lines.join("\n"));
    }

    #[test]
    fn a_good_one_with_a_hole_is_answered(at in 0..GOOD.len(), cut in 0..40_usize, put in ".{0,3}") {
        let mut text = GOOD.to_owned();
        text.replace_range(at..(at + cut).min(GOOD.len()), &put);
        answered(&text);
    }
}

#[test]
fn a_request_with_too_much_is_refused_at_once() {
    let config = Config::parse(GOOD).unwrap();
    let spec = PortSpec {
        name: "c".to_owned(),
        segment: Some("blue".to_owned()),
        addresses: (0..60_000_u32)
            .map(|n| format!("{}/8", std::net::Ipv4Addr::from(n + (10 << 24) + 1)))
            .collect(),
        ..PortSpec::default()
    };
    let problems = check_port(&spec, &config.node.name, &config.segments, &[]).unwrap_err();
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["addresses: 60000 of them, 256 at most"]);
}

#[test]
fn deep_nesting_is_answered() {
    answered(&format!("x = {}", "[".repeat(100_000)));
    answered(&format!("[{}]", vec!["a"; 50_000].join(".")));
    answered(&format!("x = {}", "{a=".repeat(50_000)));
}
