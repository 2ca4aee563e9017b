//! The documents say what is true: what a machine can compare with the code is compared here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _};
use switch::DropReason;
use tapestry::cli::args::Args;
use tapestry::config::{Config, UnknownUnicast};
use tapestry::control::Snapshot;
use tapestry::control::cluster::ClusterStatus;
use tapestry::control::metrics::{Format, render};
use tapestry::control::model::{
    DropRow, FdbCounts, ObjectOrigin, OffloadRow, OffloadState, PeerRow, PortRow, PortState,
    SegmentRow, Traffic, WorkerRow,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every document, by its path from the root.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    for dir in ["", "docs"] {
        for entry in fs::read_dir(root().join(dir)).unwrap() {
            let path = Path::new(dir).join(entry.unwrap().file_name());
            if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    assert!(paths.len() >= 8, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), read(path))).collect()
}

/// The rows of the tables under the header that begins with `first`, cell by cell.
fn table(text: &str, first: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            within = within && line.starts_with('|');
            continue;
        };
        let cells: Vec<String> = row.split(" | ").map(|cell| cell.trim().to_owned()).collect();
        if cells.first().is_some_and(|cell| cell == first) {
            within = true;
        } else if within {
            rows.push(cells);
        }
    }
    assert!(!rows.is_empty(), "no table under {first:?}");
    rows
}

fn code(cell: &str) -> &str {
    let inner = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
    inner.unwrap_or_else(|| panic!("{cell:?} is no code"))
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(found), None) => open = Some((found == language, String::new())),
            (Some(_), Some(_)) => {
                blocks.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, block)| block));
            }
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

#[test]
fn the_table_of_drops_is_the_enum() {
    let rows = table(&read("docs/drops.md"), "reason");
    let documented: Vec<(&str, &str)> =
        rows.iter().map(|row| (code(&row[0]), row[1].as_str())).collect();
    let actual: Vec<(&str, &str)> =
        DropReason::ALL.iter().map(|reason| (reason.label(), reason.explanation())).collect();
    assert_eq!(documented, actual);
    for row in rows {
        assert!(row.len() == 4 && !row[2].is_empty(), "{row:?}");
    }
}

/// The documented keys, as `port.trunk.vlan`.
fn keys() -> Vec<String> {
    let rows = table(&read("docs/configuration.md"), "key");
    rows.iter().map(|row| code(&row[0]).to_owned()).collect()
}

/// A file with nothing but `key`, set to what no key can be, and the path it then has.
fn strange(key: &str) -> (String, String) {
    let parts: Vec<&str> = key.split('.').collect();
    let (leaf, tables) = parts.split_last().unwrap();
    let (mut text, mut typed, mut path) = (String::new(), String::new(), String::new());
    for (depth, table) in tables.iter().enumerate() {
        let many = matches!(*table, "segment" | "port" | "trunk" | "routes" | "node")
            && tables != ["node"];
        typed = if depth == 0 { (*table).to_owned() } else { format!("{typed}.{table}") };
        path = if depth == 0 { (*table).to_owned() } else { format!("{path}.{table}") };
        if many {
            text.push_str(&format!("[[{typed}]]\n"));
            path.push_str("[0]");
        } else {
            text.push_str(&format!("[{typed}]\n"));
        }
    }
    (format!("{text}{leaf} = 1979-05-27\n"), format!("{path}.{leaf}"))
}

#[test]
fn every_documented_key_is_one() {
    for key in keys() {
        let (text, path) = strange(&key);
        let error = Config::parse(&text).unwrap_err();
        let problem = error.problems().iter().find(|problem| problem.path == path);
        let problem = problem.unwrap_or_else(|| panic!("{key}: nothing said about it: {error}"));
        assert!(problem.message.starts_with("expected "), "{key}: {problem}");
    }
    let (text, path) = strange("underlay.colour");
    let error = Config::parse(&text).unwrap_err();
    let problem = error.problems().iter().find(|problem| problem.path == path).unwrap();
    assert_eq!(problem.message, "unknown key");
}

/// The words that the parser asks for are those of the documented keys. The parser's are the
/// literals of its source, save those that a value is compared with or that a message holds.
#[test]
fn every_key_is_documented() {
    let source = read("src/config/raw.rs");
    let mut asked = BTreeSet::new();
    for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('"') {
            let Some((word, behind)) = after.split_once('"') else { break };
            let is_word =
                word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if is_word && !word.is_empty() && !before.ends_with("== ") {
                asked.insert(word.to_owned());
            }
            rest = behind;
        }
    }
    let documented: BTreeSet<String> =
        keys().iter().flat_map(|key| key.split('.')).map(str::to_owned).collect();
    assert_eq!(asked, documented);
}

#[test]
fn the_packaged_configuration_has_documented_keys_and_parses() {
    let text = read("packaging/tapestry.toml");
    Config::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let documented: BTreeSet<String> =
        keys().iter().filter_map(|key| key.rsplit('.').next()).map(str::to_owned).collect();
    let mut seen = 0;
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((key, _)) = line.split_once(" = ") else { continue };
        if key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            assert!(documented.contains(key), "{key}");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn every_toml_block_is_a_configuration() {
    let mut seen = 0;
    for (path, text) in documents() {
        for block in blocks(&text, "toml") {
            seen += 1;
            if let Err(error) = Config::parse(&block) {
                panic!("{}: {error}\n{block}", path.display());
            }
        }
    }
    assert!(seen >= 2, "{seen}");
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for (_, after) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let link = after.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(root().join(&target).exists(), "{}: {link}", path.display());
            if !fragment.is_empty() {
                let there = read(&target);
                let mut headings = there.lines().filter_map(|line| line.strip_prefix('#'));
                let found = headings
                    .any(|heading| anchor(heading.trim_start_matches('#').trim()) == fragment);
                assert!(found, "{}: no heading for {link}", path.display());
            }
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn the_table_of_routes_is_the_openapi_document() {
    let rows = table(&read("docs/control-api.md"), "route");
    let documented: BTreeSet<String> = rows.iter().map(|row| code(&row[0]).to_owned()).collect();
    let document = serde_json::to_value(tapestry::control::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let actual: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    assert_eq!(documented, actual);
}

/// One of everything that the metrics can show.
fn snapshot() -> Snapshot {
    let text = str::to_owned;
    let mut snapshot = Snapshot::default();
    snapshot.status.version = text("0");
    snapshot.status.workers = vec![WorkerRow::default()];
    snapshot.status.offloads =
        vec![OffloadRow { name: text("udp_gso"), state: OffloadState::On, degradations: 0 }];
    snapshot.ports = vec![PortRow {
        name: text("p"),
        segment: Some(text("s")),
        trunk: Vec::new(),
        ifname: text("p"),
        netns: None,
        mac: text("02:00:00:00:00:01"),
        mtu: 1450,
        state: PortState::Up,
        reason: None,
        queues: 1,
        steering: None,
        addresses: Vec::new(),
        rx: Traffic::default(),
        tx: Traffic::default(),
        drops: 0,
        origin: ObjectOrigin::Config,
    }];
    snapshot.segments = vec![SegmentRow {
        name: text("s"),
        vni: 1,
        ports: Vec::new(),
        peers: Vec::new(),
        multicast: None,
        learning: true,
        aging_ms: 1,
        max_macs: 1,
        unknown_unicast: UnknownUnicast::Flood,
        strict_peers: true,
        strict_header: false,
        fdb: FdbCounts::default(),
        origin: ObjectOrigin::Config,
    }];
    snapshot.peers = vec![PeerRow {
        address: text("192.0.2.2"),
        segments: Vec::new(),
        rx: Traffic::default(),
        tx: Traffic::default(),
        last_heard_ms: Some(1),
        mtu: Some(1500),
    }];
    snapshot.drops = vec![DropRow { reason: text("too_big"), count: 0, port: None, peer: None }];
    snapshot.errors = BTreeMap::from([(text("peer"), 0)]);
    snapshot.status.cluster =
        Some(ClusterStatus { answered_ms_ago: Some(1), ..Default::default() });
    snapshot.attachments.verbs = vec![("ADD", 1, 2)];
    snapshot
}

/// Name, type and labels of every metric, as rendered.
fn metrics() -> Vec<(String, String, Vec<String>)> {
    let text = render(snapshot(), Format::Prometheus).unwrap();
    let mut all: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            all.push((name.to_owned(), kind.to_owned(), Vec::new()));
        } else if !line.starts_with('#') {
            let (name, kind, labels) = all.last_mut().unwrap();
            assert!(line.starts_with(name.as_str()), "{kind} {name} has the sample {line}");
            let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
            let found = inside.map_or("", |(inside, _)| inside).split(',');
            *labels = found.filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect();
        }
    }
    all
}

#[test]
fn the_table_of_metrics_is_what_is_rendered() {
    let rows = table(&read("docs/metrics.md"), "metric");
    let documented: Vec<(String, String, Vec<String>)> = rows
        .iter()
        .map(|row| {
            let labels = row[2].split(", ").filter(|label| !label.is_empty());
            let labels = labels.map(|label| code(label).to_owned()).collect();
            (code(&row[0]).to_owned(), row[1].clone(), labels)
        })
        .collect();
    assert_eq!(documented, metrics());
}

#[test]
fn every_metric_that_is_named_exists() {
    let names: BTreeSet<String> = metrics().into_iter().map(|(name, ..)| name).collect();
    for (path, text) in documents() {
        for (at, _) in text.match_indices("tapestry_") {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            assert!(names.contains(name), "{}: {name}", path.display());
        }
    }
}

/// The words after the prompt of each command that a document shows.
fn commands() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (_, text) in documents() {
        for block in blocks(&text, "console") {
            let typed = block.lines().filter_map(|line| {
                line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")).map(str::trim)
            });
            all.extend(typed.map(|line| line.split_whitespace().map(str::to_owned).collect()));
        }
    }
    all
}

#[test]
fn every_command_that_is_shown_can_be_typed() {
    let commands = commands();
    let tapestry = commands.iter().filter(|words: &&Vec<String>| words[0] == "tapestry");
    let mut seen = 0;
    for words in tapestry {
        seen += 1;
        if let Err(error) = Args::try_parse_from(words) {
            panic!("{}: {error}", words.join(" "));
        }
    }
    assert!(seen > 15, "{seen}");
    let makefile = read("Makefile");
    for words in commands.iter().filter(|words| words[0] == "make") {
        let target = format!("\n{}:", words[1]);
        assert!(makefile.contains(&target), "{}", words.join(" "));
    }
    for words in commands.iter().filter(|words| words[0] == "cargo") {
        let example = words.iter().skip_while(|word| *word != "--example").nth(1).unwrap();
        let found = ["", "/main"]
            .iter()
            .any(|end| root().join("examples").join(format!("{example}{end}.rs")).exists());
        assert!(found, "{}", words.join(" "));
    }
}

/// Every verb as it is typed: `port list`.
fn verbs(command: &clap::Command, before: &str) -> Vec<String> {
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    let mut all: Vec<String> = Vec::new();
    for below in below {
        all.extend(verbs(below, &format!("{before} {}", below.get_name())));
    }
    if all.is_empty() { vec![before.to_owned()] } else { all }
}

#[test]
fn the_readme_shows_every_command() {
    let readme = read("README.md");
    let verbs = verbs(&Args::command(), "tapestry");
    assert!(verbs.len() >= 15, "{verbs:?}");
    for verb in verbs {
        assert!(readme.contains(&verb), "{verb}");
    }
}
