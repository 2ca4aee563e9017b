//! A configuration file: any text is accepted or refused with its problems, and what was accepted
//! means the same when it is said again.

use tapestry::config::{Config, ConfigError, check_port};

/// Parses the text, and checks each accepted port again by its own specification.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let config = match Config::parse(&text) {
        Ok(config) => config,
        Err(error) => {
            let reasons =
                matches!(&error, ConfigError::Invalid { problems, .. } if !problems.is_empty());
            assert!(
                reasons && !error.to_string().is_empty(),
                "refused without a reason: {error:?}"
            );
            return;
        }
    };
    for (at, port) in config.ports.iter().enumerate() {
        let before = &config.ports[..at];
        let spec = port.spec();
        let again = check_port(&spec, &config.node.name, &config.segments, before);
        assert_eq!(again.as_ref(), Ok(port), "{spec:?}");
        // As the journal keeps it.
        let kept = serde_json::to_value(&spec).and_then(serde_json::from_value);
        assert_eq!(kept.ok(), Some(spec));
        let twice = check_port(&port.spec(), &config.node.name, &config.segments, &config.ports);
        assert!(twice.is_err(), "one port twice");
    }
    for segment in &config.segments {
        assert_eq!(config.segment(segment.name.as_str()), Some(segment));
    }
}
