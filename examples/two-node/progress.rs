//! A line that fills while bytes arrive.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::traffic::tcp::Transfer;

/// Such a line; on anything but a terminal only its end is printed.
pub(crate) struct Progress {
    title: String,
    counter: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    painter: JoinHandle<()>,
}

impl Progress {
    pub(crate) fn start(title: &str, total: u64) -> Self {
        let (counter, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let painter = thread::spawn({
            let (title, counter, done) =
                (title.to_owned(), Arc::clone(&counter), Arc::clone(&done));
            move || paint(&title, total, &counter, &done)
        });
        Self { title: title.to_owned(), counter, done, painter }
    }

    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.counter)
    }

    pub(crate) fn end(self, moved: &Transfer) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.painter.join();
        let megabytes = moved.bytes / 1_000_000;
        println!(
            "  {}: {megabytes} MB both ways in {:.2} s, {:.1} Gb/s, all bytes as sent, {} retransmits",
            self.title,
            moved.elapsed.as_secs_f64(),
            moved.gigabits(),
            moved.retransmits
        );
    }
}

fn paint(title: &str, total: u64, counter: &AtomicU64, done: &AtomicBool) {
    const WIDTH: u64 = 40;
    if !stdout().is_terminal() {
        return;
    }
    let begun = Instant::now();
    while !done.load(Ordering::Relaxed) {
        let bytes = counter.load(Ordering::Relaxed);
        let share = (bytes * WIDTH / total.max(1)).min(WIDTH);
        let bar: String = (0..WIDTH).map(|at| if at < share { '#' } else { '.' }).collect();
        let speed = bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9;
        print!("\r  {title}: [{bar}] {} MB {speed:.1} Gb/s", bytes / 1_000_000);
        let _ = stdout().flush();
        thread::sleep(Duration::from_millis(100));
    }
    print!("\r\x1b[K");
}
