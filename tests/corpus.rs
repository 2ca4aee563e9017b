//! Replays the corpora of the fuzz targets, without a fuzzer.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
pub mod targets;

#[test]
fn every_seed_of_every_target_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, check) in targets::TARGETS {
        let mut seeds = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            check(&fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds >= 5, "{name} has {seeds} seeds");
    }
    let directories = fs::read_dir(corpus).unwrap().count();
    assert_eq!(directories, targets::TARGETS.len(), "a corpus without a target");
}

#[test]
fn every_prefix_of_every_seed_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, check) in targets::TARGETS {
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            (0..seed.len()).for_each(|len| check(&seed[..len]));
        }
    }
}
