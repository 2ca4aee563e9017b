//! What containers say of themselves and of those who ask them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::tool::eventually;
use lab::world::Space;

/// The port at which every container serves.
pub(crate) const PORT: u16 = 8080;

/// The page that says by which address whoever asks is seen.
pub(crate) const WHO: &str = "/cgi-bin/who";

/// How long nobody answers before nobody will: a server that is just started has to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The address of that page.
pub(crate) fn url(at: SocketAddr) -> String {
    format!("http://{at}{WHO}")
}

/// Asks from a namespace; until there is an answer, since a server may just be starting.
pub(crate) fn seen_from(space: &Space, at: SocketAddr) -> Result<IpAddr> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match space.run(|| get(at))? {
            Ok(answer) => {
                let last = answer.lines().last().unwrap_or_default();
                return address(last).with_context(|| format!("{at} said {answer:?}"));
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{} to {at}", space.name()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Waits until nobody answers there any more.
pub(crate) fn closes(space: &Space, at: SocketAddr) -> Result<()> {
    let what = format!("{} does not reach {at}", space.name());
    eventually(PATIENCE, &what, || Ok(space.run(|| get(at))?.is_err()))
}

fn get(at: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {WHO} HTTP/1.0\r\nHost: {at}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 200 OK"), "{at} said {answer:?}");
    Ok(answer)
}

/// The address in an answer.
pub(crate) fn address(text: &str) -> Result<IpAddr> {
    let text = text.trim().trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = text.parse().with_context(|| format!("{text:?} is no address"))?;
    Ok(address.to_canonical())
}

/// A container that can be made to run a program.
pub(crate) trait Inside {
    /// How it is called, for those who read.
    fn name(&self) -> &str;
    /// Runs a program of the container to its end, and returns what it prints.
    fn run(&self, words: &[&str]) -> Result<String>;

    /// Its addresses as it sees them itself, IPv4 and IPv6.
    fn addresses(&self) -> Result<[IpAddr; 2]> {
        let text = self.run(&["ip", "addr", "show", "dev", "eth0"])?;
        let of = |family: &str| -> Result<IpAddr> {
            let lines = text.lines().filter(|line| !line.contains("scope link"));
            let mut found =
                lines.filter_map(|line| line.trim().strip_prefix(family)?.split('/').next());
            let found = found.next().with_context(|| format!("no {family}address: {text}"))?;
            Ok(found.parse()?)
        };
        Ok([of("inet ")?, of("inet6 ")?])
    }

    /// By which address another container sees this one; asked until there is an answer, since that
    /// one's server may just be starting.
    fn seen_by(&self, at: SocketAddr) -> Result<IpAddr> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.run(&["wget", "-qO-", &url(at)]) {
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
                said => {
                    return address(&said.with_context(|| format!("{} to {at}", self.name()))?);
                }
            }
        }
    }
}

/// Both fetch from each other, and each is seen by the address by which it sees itself.
pub(crate) fn fetch_from_each_other(one: &dyn Inside, other: &dyn Inside) -> Result<()> {
    for (client, server) in [(one, other), (other, one)] {
        let own = client.addresses()?;
        for (own, to) in own.into_iter().zip(server.addresses()?) {
            let seen = client.seen_by(SocketAddr::new(to, PORT))?;
            ensure!(seen == own, "{} sees {} as {seen}, not {own}", server.name(), client.name());
            client.run(&["ping", "-c", "2", "-W", "5", &to.to_string()])?;
        }
    }
    Ok(())
}
