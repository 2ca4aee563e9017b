//! What the demos have in common: how they tell what they do, and the way in for those who look.

use std::time::Duration;

use lab::cell;

pub(crate) fn step(title: &str) {
    println!("\n== {title}");
}

pub(crate) fn milliseconds(time: &Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

pub(crate) fn indented(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

/// Leaves everything up, with the keys to it printed, until a signal ends the process.
pub(crate) fn leave_up(print_keys: impl FnOnce()) -> ! {
    step("left up until Ctrl-C; to look around, as the same user in another terminal");
    print_keys();
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// What to put in front of a command that is to run within the demo, from another terminal.
pub(crate) fn way_in() -> String {
    let pid = cell::outer_pid().unwrap_or("PID");
    let user = if cell::is_root_outside() { "" } else { "--user --preserve-credentials " };
    format!("nsenter --target {pid} {user}--mount --net")
}
