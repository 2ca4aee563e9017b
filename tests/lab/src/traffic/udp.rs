//! UDP: an echo for datagrams of many sizes, and guests that let the kernel segment (UDP_SEGMENT).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::traffic::pattern;
use crate::world::Space;

const PATIENCE: Duration = Duration::from_secs(3);

fn pair(client: &Space, server: &Space, address: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let far = server.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))??;
    let target = far.local_addr()?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let near = client.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(target).map(|()| socket)
    })??;
    near.set_read_timeout(Some(PATIENCE))?;
    far.set_read_timeout(Some(PATIENCE))?;
    Ok((near, far))
}

/// Sends one datagram of each size, has it echoed, and compares what came back.
///
/// # Errors
///
/// If one is lost (nothing on a clean path loses one at a time) or changed.
pub fn echo(client: &Space, server: &Space, address: IpAddr, sizes: &[usize]) -> Result<()> {
    let (near, far) = pair(client, server, address)?;
    let block = pattern(3);
    let mut buffer = vec![0; 65_536];
    for &size in sizes {
        let sent = block.get(..size).context("size")?;
        near.send(sent)?;
        let (length, from) =
            far.recv_from(&mut buffer).with_context(|| format!("{size} bytes there"))?;
        far.send_to(buffer.get(..length).unwrap_or_default(), from)?;
        let length = near.recv(&mut buffer).with_context(|| format!("{size} bytes back"))?;
        ensure!(buffer.get(..length) == Some(sent), "{size} bytes came back changed ({length})");
    }
    Ok(())
}

/// Sends `count` datagrams of `size` bytes, and one of `tail` bytes unless that is zero, in one
/// system call with UDP_SEGMENT, and checks that they arrive as that many datagrams, in order, unchanged.
///
/// # Errors
///
/// If one is missing, changed or of another size.
pub fn segmented(
    client: &Space,
    server: &Space,
    address: IpAddr,
    size: usize,
    count: usize,
    tail: usize,
) -> Result<()> {
    let (near, far) = pair(client, server, address)?;
    setsockopt(&near, sockopt::UdpGsoSegment, &i32::try_from(size)?).context("UDP_SEGMENT")?;
    let sent: Vec<u8> = pattern(4).into_iter().take(size * count + tail).collect();
    ensure!(sent.len() == size * count + tail, "more than the pattern has");
    // The first datagram resolves the neighbour: while that is pending the kernel keeps few.
    near.send(&[0])?;
    let mut buffer = vec![0; 65_536];
    far.recv(&mut buffer).context("the first datagram")?;
    near.send(&sent)?;
    for (number, wanted) in sent.chunks(size).enumerate() {
        let length =
            far.recv(&mut buffer).with_context(|| format!("datagram {number} of {count}"))?;
        ensure!(
            buffer.get(..length) == Some(wanted),
            "datagram {number} of {count}: {length} bytes for {}",
            wanted.len()
        );
    }
    Ok(())
}
