//! Who reaches whom, and by which address the one who is reached sees the other.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use lab::traffic::mirror::{PORT, look};
use lab::world::Space;

/// Somebody who asks or answers: a name, a namespace, an address of each family.
pub(crate) struct Party {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) hosts: [IpAddr; 2],
}

/// Has each of `clients` ask each of `servers` over both families, and prints what the servers saw:
/// IPv4 as a table. `expected` says what they should see.
pub(crate) fn walk(
    clients: &[Party],
    servers: &[Party],
    expected: impl Fn(&Party, usize) -> IpAddr,
) -> Result<()> {
    let mut wrong = Vec::new();
    for (family, version) in [(0, "IPv4"), (1, "IPv6")] {
        let mut table = vec![header(servers, family)];
        let mut right = 0;
        for client in clients {
            let mut line = vec![label(client, family)];
            for server in servers {
                let want = expected(client, family);
                match look(&client.space, SocketAddr::new(server.hosts[family], PORT)) {
                    Ok(seen) => {
                        line.push(seen.to_string());
                        if seen == want {
                            right += 1;
                        } else {
                            wrong.push(format!(
                                "{} saw {} as {seen}, not {want}",
                                server.name, client.name
                            ));
                        }
                    }
                    Err(error) => {
                        line.push("-".to_owned());
                        wrong.push(format!("{error:#}"));
                    }
                }
            }
            table.push(line);
        }
        if family == 0 {
            print(&table);
        }
        println!("  {version}: {right} of {}", clients.len() * servers.len());
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n  "));
    }
    Ok(())
}

fn label(party: &Party, family: usize) -> String {
    format!("{} {}", party.name, party.hosts[family])
}

fn header(servers: &[Party], family: usize) -> Vec<String> {
    let names = servers.iter().map(|server| label(server, family));
    std::iter::once("from \\ to".to_owned()).chain(names).collect()
}

fn print(table: &[Vec<String>]) {
    let width = |column: usize| {
        table.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0)
    };
    for line in table {
        let cells = line.iter().enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at)));
        println!("    {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
