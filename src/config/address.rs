//! Addresses and durations as they are typed.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::reader::shorten;

/// A remote VTEP as it is typed: `address` or `address:port`, an IPv6 address with a port in
/// brackets.
///
/// # Errors
/// What is wrong with it, in words: it is neither, or no VTEP can have that address.
pub fn parse_peer(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let peer = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, default_port),
        Err(_) => text.parse().map_err(|_| {
            format!("\"{}\" is neither an IP address nor address:port", shorten(text))
        })?,
    };
    if peer.port() == 0 {
        return Err(format!("\"{text}\" has port 0"));
    }
    vtep(peer.ip())?;
    Ok(peer)
}

/// Whether a VTEP can have this address.
pub(crate) fn vtep(address: IpAddr) -> Result<(), String> {
    let because = if address.is_unspecified() {
        "is the unspecified address"
    } else if address.is_multicast() {
        "is a multicast group"
    } else if matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        "is the broadcast address"
    } else if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        "is an IPv4 address in IPv6 clothes; write the IPv4 address"
    } else if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        "is link-local, which means nothing without an interface"
    } else {
        return Ok(());
    };
    Err(format!("{address} {because}; a VTEP needs a unicast address"))
}

/// `IPv4` or `IPv6`.
pub(super) const fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// `300s`, `5m`, `1h30m`: whole numbers, each with `ms`, `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let fail = || format!("\"{}\" is no duration (as \"300s\", \"5m\", \"1h30m\")", shorten(text));
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
        let (number, tail) = rest.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| fail())?;
        let next = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(next);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(fail()),
        };
        let part = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(fail)?;
        total = total.checked_add(part).ok_or_else(fail)?;
        rest = tail;
    }
    if text.is_empty() { Err(fail()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let rows = [
            ("300s", Some(300_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5 m", None),
            ("-5m", None),
            ("5y", None),
            ("99999999999999999999s", None),
            ("9999999999999999999d", None),
            ("5m3", None),
            ("５m", None),
        ];
        for (text, millis) in rows {
            let found = duration(text).ok().map(|found| found.as_millis());
            assert_eq!(found, millis, "{text:?}");
        }
    }
}
