//! TCP connections that are kept talking while something happens to the switch.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::tool::eventually;
use crate::traffic::tcp;
use crate::world::Space;

/// How long an answer may stay out before the connection counts as broken. TCP's own timers double
/// from 200 ms, so that a switch that was away for a second is found again within two.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection with a question always on its way.
#[derive(Debug)]
struct Talk {
    name: String,
    answered: Arc<AtomicU64>,
    client: JoinHandle<Result<Duration>>,
    server: JoinHandle<Result<()>>,
}

/// Many of them.
#[derive(Debug, Default)]
pub struct Talks {
    stop: Arc<AtomicBool>,
    talks: Vec<Talk>,
}

impl Talks {
    /// Connects a further pair.
    ///
    /// # Errors
    ///
    /// If the connection cannot be made.
    pub fn open(&mut self, client: &Space, server: &Space, address: IpAddr) -> Result<()> {
        let (near, far) = tcp::connect(client, server, address)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        near.set_read_timeout(Some(PATIENCE))?;
        far.set_read_timeout(None)?;
        let answered = Arc::new(AtomicU64::new(0));
        let (stop, counter) = (Arc::clone(&self.stop), Arc::clone(&answered));
        self.talks.push(Talk {
            name: format!("{} to {address}", client.name()),
            answered,
            client: thread::spawn(move || ask(near, &stop, &counter)),
            server: thread::spawn(move || answer(far)),
        });
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.talks.len()
    }

    /// Waits until each of them got further answers, to questions asked after this call.
    ///
    /// # Errors
    ///
    /// If one gets none in time.
    pub fn go_on(&self) -> Result<()> {
        for talk in &self.talks {
            let before = talk.answered.load(Ordering::Relaxed);
            eventually(PATIENCE, &format!("{} goes on", talk.name), || {
                ensure!(!talk.client.is_finished(), "{} broke", talk.name);
                Ok(talk.answered.load(Ordering::Relaxed) > before + 2)
            })?;
        }
        Ok(())
    }

    /// Ends them all. Returns the longest time that any of them waited for an answer.
    ///
    /// # Errors
    ///
    /// If one broke, or an answer was wrong.
    pub fn end(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for talk in self.talks {
            let join = |what| anyhow!("{}: {what} panicked", talk.name);
            let stall = talk
                .client
                .join()
                .map_err(|_| join("client"))?
                .with_context(|| talk.name.clone())?;
            talk.server.join().map_err(|_| join("server"))?.with_context(|| talk.name.clone())?;
            longest = longest.max(stall);
        }
        Ok(longest)
    }
}

fn ask(mut stream: TcpStream, stop: &AtomicBool, answered: &AtomicU64) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let begun = Instant::now();
        stream.write_all(&number.to_be_bytes()).context("ask")?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).with_context(|| format!("answer {number}"))?;
        ensure!(u64::from_be_bytes(answer) == !number, "answer {number} is wrong");
        longest = longest.max(begun.elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(longest)
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut question = [0; 8];
    loop {
        match stream.read(&mut question) {
            Ok(0) => return Ok(()),
            Ok(8) => {}
            Ok(some) => stream.read_exact(question.get_mut(some..).unwrap_or_default())?,
            Err(error) => return Err(error).context("question"),
        }
        stream.write_all(&(!u64::from_be_bytes(question)).to_be_bytes()).context("reply")?;
    }
}
