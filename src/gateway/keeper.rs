//! Sees that the table of rules stands: applies it, and puts it back when somebody takes it away.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use tokio::sync::watch;

use super::listing::{Key, Listing};
use super::rules::{Rules, SetChange};
use super::ruleset::Ruleset;
use super::stir::{Stirs, Word};

/// How often the table is looked at where the kernel does not say what happens to it. Looking and
/// putting it back both fit into what is left of a second.
const LOOK: Duration = Duration::from_millis(600);

/// How often it is looked at where the kernel does.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);

/// The least time between two looks, however much happens.
const PAUSE: Duration = Duration::from_millis(100);

/// How long after a failure it is tried again: twice as long each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Up to so many elements are changed one by one.
const LITTLE: usize = 256;

/// How the table is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeeperState {
    /// Whether what is wanted stands.
    pub stands: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// How often it was put back after somebody had changed or removed it.
    pub restored: u64,
}

/// The decisions: time is an argument.
#[derive(Debug)]
struct Keep<R> {
    rules: R,
    /// Whether the kernel says what happens.
    told: bool,
    key: Key,
    wanted: Option<Arc<Ruleset>>,
    /// What was put there; `None`: it is to be put there.
    standing: Option<Standing>,
    /// Somebody else may have changed what stands.
    doubted: bool,
    /// What was done to it from here, since that was asked last.
    done: Done,
    /// When it was last seen to be what stands.
    seen: Option<Instant>,
    due: Option<Instant>,
    looked: Option<Instant>,
    failures: u32,
    state: KeeperState,
}

/// What was done to the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Done {
    #[default]
    Nothing,
    Amended,
    Replaced,
}

/// The table as it was put there, and what the kernel then shows.
#[derive(Debug)]
struct Standing {
    rules: Arc<Ruleset>,
    listing: Listing,
}

impl<R: Rules> Keep<R> {
    fn new(rules: R, told: bool) -> Self {
        Self {
            rules,
            told,
            key: Key::new(),
            wanted: None,
            standing: None,
            doubted: false,
            done: Done::Nothing,
            seen: None,
            due: None,
            looked: None,
            failures: 0,
            state: KeeperState::default(),
        }
    }

    /// Another table is wanted.
    fn want(&mut self, rules: Arc<Ruleset>, now: Instant) {
        if self.wanted.as_ref() != Some(&rules) {
            self.wanted = Some(rules);
            self.failures = 0;
            self.due = Some(now);
        }
    }

    /// Something happened to the table.
    fn stirred(&mut self, now: Instant) {
        self.doubted = true;
        let earliest = self.looked.map_or(now, |looked| now.max(looked + PAUSE));
        // What failed waits for its time.
        if self.failures == 0 {
            self.due = self.due.map(|due| due.min(earliest));
        }
    }

    /// What was heard after it was changed from here: more than the own transaction, and somebody else
    /// was at it at the same time.
    fn heard_since(&mut self, word: Word, now: Instant) {
        match (std::mem::take(&mut self.done), word) {
            (Done::Nothing, _) | (_, Word::Silence | Word::Once) => {}
            // It may have been in between already when it was read: what is there is nobody's word.
            (Done::Replaced, Word::Several) => {
                self.standing = None;
                self.stirred(now);
            }
            (Done::Amended | Done::Replaced, Word::Several | Word::Lost) => self.stirred(now),
        }
    }

    const fn interval(&self) -> Duration {
        if self.told { LOOK_ANYWAY } else { LOOK }
    }

    /// Does what is due, and says when to come again; `None`: nothing is wanted.
    fn turn(&mut self, now: Instant) -> Option<Instant> {
        if self.due? > now {
            return self.due;
        }
        let done = self.look(now);
        self.looked = Some(now);
        let again = match done {
            Ok(()) => {
                (self.failures, self.state.trouble, self.state.stands) = (0, None, true);
                self.interval()
            }
            Err(trouble) => {
                if self.state.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("rules: {trouble}");
                }
                (self.state.trouble, self.state.stands) = (Some(trouble), false);
                self.failures = self.failures.saturating_add(1);
                RETRY.0.saturating_mul(1 << (self.failures - 1).min(5)).min(RETRY.1)
            }
        };
        self.due = Some(now + again);
        self.due
    }

    fn look(&mut self, now: Instant) -> Result<(), String> {
        let Some(wanted) = self.wanted.clone() else { return Ok(()) };
        let mut was_taken = false;
        // However often something else is wanted, it is looked at from time to time.
        let long_ago = self.seen.is_none_or(|seen| now >= seen + self.interval());
        if let Some(standing) = &self.standing
            && (self.doubted || long_ago || standing.rules == wanted)
        {
            let table = self.rules.read()?.map(|table| Listing::of(&self.key, &table));
            if table.as_ref() != Some(&standing.listing) {
                tracing::warn!("rules: somebody has changed or removed the table, it is put back");
                self.standing = None;
                was_taken = true;
            }
            self.seen = Some(now);
        }
        self.doubted = false;
        if self.standing.as_ref().is_none_or(|standing| standing.rules != wanted) {
            self.put(wanted, now)?;
        }
        self.state.restored += u64::from(was_taken);
        Ok(())
    }

    /// Puts the table there: what is different in it, if that is little, or all of it.
    fn put(&mut self, wanted: Arc<Ruleset>, now: Instant) -> Result<(), String> {
        let standing = self.standing.take();
        let changes = standing.as_ref().and_then(|standing| standing.rules.changes(&wanted));
        if let Some(mut standing) = standing
            && let Some(changes) = changes.filter(|changes| is_little(changes))
        {
            // There may be none: who has what is different, and not what there is.
            let amended = if changes.is_empty() { Ok(()) } else { self.rules.amend(&changes) };
            match amended {
                Ok(()) => {
                    if !changes.is_empty() {
                        self.done = Done::Amended;
                    }
                    standing.listing.amend(&self.key, &changes);
                    standing.rules = wanted;
                    self.standing = Some(standing);
                    return Ok(());
                }
                Err(error) => tracing::debug!("rules: the table is put there anew: {error}"),
            }
        }
        self.done = Done::Replaced;
        let table = self.rules.replace(&wanted.body())?;
        self.seen = Some(now);
        let listing = Listing::of(&self.key, &table);
        self.standing = Some(Standing { rules: wanted, listing });
        Ok(())
    }
}

/// Whether the kernel's words about such changes find room, so that they are known for one's own.
fn is_little(changes: &[SetChange]) -> bool {
    changes.iter().map(|change| change.gone.len() + change.new.len()).sum::<usize>() <= LITTLE
}

/// What the thread is told.
#[derive(Debug, Default)]
struct Inbox {
    wanted: Option<Arc<Ruleset>>,
    /// How often something was wanted.
    asked: u64,
    over: bool,
    state: KeeperState,
}

/// A thread that sees to it that the table stands. The table stays when this is dropped: the pods do
/// so as well.
#[derive(Debug)]
pub struct Keeper {
    inbox: Arc<Mutex<Inbox>>,
    wake: UnixStream,
    /// Up to which time of asking it has done what was wanted, or found that it cannot.
    dealt: watch::Receiver<u64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Keeper {
    /// Starts it, with the kernel's word about changes; without that the table is looked at often,
    /// which costs a run of nft(8) each time.
    ///
    /// # Errors
    ///
    /// If there is no descriptor or thread left.
    pub fn start(rules: impl Rules + 'static, stirs: Option<Stirs>) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let keep = Keep::new(rules, stirs.is_some());
        let (done, dealt) = watch::channel(0);
        let thread = thread::Builder::new().name("rules".to_owned()).spawn({
            let inbox = Arc::clone(&inbox);
            move || run(keep, stirs.as_ref(), &woken, &inbox, &done)
        })?;
        Ok(Self { inbox, wake, dealt, thread: Some(thread) })
    }

    /// This is what shall stand from now on. Returns at once.
    pub fn want(&self, rules: Ruleset) {
        self.tell(|inbox| {
            inbox.wanted = Some(Arc::new(rules));
            inbox.asked += 1;
        });
    }

    /// How often [`Self::want`] was called.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).asked
    }

    /// Ends when what was wanted last stands, or it is known why it does not.
    pub fn dealt_with(&self) -> impl Future<Output = ()> + Send + use<> {
        let (asked, mut dealt) = (self.asked(), self.dealt.clone());
        async move {
            // An error is the keeper's end: there is nothing to wait for any more.
            let _ = dealt.wait_for(|dealt| *dealt >= asked).await;
        }
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> KeeperState {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).state.clone()
    }

    fn tell(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        // A full pipe wakes as well.
        let _ = io::Write::write(&mut &self.wake, &[1]);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tell(|inbox| inbox.over = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run<R: Rules>(
    mut keep: Keep<R>,
    stirs: Option<&Stirs>,
    woken: &UnixStream,
    inbox: &Mutex<Inbox>,
    done: &watch::Sender<u64>,
) {
    loop {
        let (wanted, asked) = {
            let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
            if inbox.over {
                return;
            }
            (inbox.wanted.take(), inbox.asked)
        };
        if let Some(rules) = wanted {
            keep.want(rules, Instant::now());
        }
        let heard = || stirs.map_or(Word::Silence, Stirs::take);
        if heard() != Word::Silence {
            keep.stirred(Instant::now());
        }
        let mut next = keep.turn(Instant::now());
        if keep.done != Done::Nothing {
            keep.heard_since(heard(), Instant::now());
            next = keep.due;
        }
        inbox.lock().unwrap_or_else(PoisonError::into_inner).state = keep.state.clone();
        done.send_if_modified(|dealt| std::mem::replace(dealt, asked) != asked);
        wait(stirs.map(Stirs::as_fd), woken, next);
        let mut sink = [0; 64];
        while io::Read::read(&mut &*woken, &mut sink).is_ok_and(|length| length > 0) {}
    }
}

/// Until something happens, or it is time.
fn wait(stirs: Option<BorrowedFd<'_>>, woken: &UnixStream, until: Option<Instant>) {
    let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
    fds.extend(stirs.map(|stirs| PollFd::new(stirs, PollFlags::POLLIN)));
    let timeout = until.map_or(PollTimeout::NONE, |until| {
        // Rounded up, so that it is time when it ends.
        let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
        u16::try_from(left).map_or(PollTimeout::MAX, PollTimeout::from)
    });
    let _ = poll(&mut fds, timeout);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::View;
    use crate::config::Cluster;
    use crate::gateway::ruleset::fixture::{census, cluster, view};
    use crate::gateway::ways::Ways;

    /// A kernel that holds one table, or refuses.
    #[derive(Debug, Default)]
    struct Fake {
        table: Option<String>,
        refuses: bool,
        replaced: u32,
        amended: u32,
        read: u32,
    }

    /// Rules that differ in what else pods may reach untranslated.
    fn ruleset(outside: &str) -> Arc<Ruleset> {
        ruleset_in(outside, &view())
    }

    fn ruleset_in(outside: &str, view: &View) -> Arc<Ruleset> {
        let non_masquerade = outside.split_whitespace().map(|net| net.parse().unwrap()).collect();
        let cluster = Cluster { non_masquerade, ..cluster() };
        let (others, ways) = (census(&cluster, view), Ways::default());
        Arc::new(Ruleset::new(&cluster, view.own.as_ref(), &others, &ways, &[]).unwrap())
    }

    /// As nft would list it, as far as that counts here.
    fn listed(body: &str) -> String {
        format!("table inet tapestry {{\n{body}}}\n")
    }

    impl Rules for Fake {
        fn replace(&mut self, body: &str) -> Result<String, String> {
            self.replaced += 1;
            if self.refuses {
                return Err("nft(8) is not installed".to_owned());
            }
            let table = listed(body);
            self.table = Some(table.clone());
            Ok(table)
        }

        fn amend(&mut self, changes: &[SetChange]) -> Result<(), String> {
            self.amended += 1;
            let [SetChange { set, gone, new }] = changes else { return Err("too many".to_owned()) };
            let table = self.table.as_mut().ok_or("no such table")?;
            if self.refuses || set != "outside4" || gone.iter().any(|one| !table.contains(one)) {
                return Err("no such element".to_owned());
            }
            let (gone, new) = (gone.join(", "), new.join(", "));
            *table = table.replace(&gone, &new);
            Ok(())
        }

        fn read(&mut self) -> Result<Option<String>, String> {
            self.read += 1;
            Ok(self.table.clone())
        }
    }

    fn keep(told: bool) -> (Keep<Fake>, Instant) {
        (Keep::new(Fake::default(), told), Instant::now())
    }

    const MS: Duration = Duration::from_millis(1);
    const A: &str = "172.16.0.0/12";
    const B: &str = "192.168.0.0/16";

    #[test]
    fn what_is_little_is_changed_and_not_put_there_anew() {
        let (mut keep, now) = keep(true);
        keep.want(ruleset(A), now);
        keep.turn(now);
        keep.want(ruleset(B), now);
        keep.turn(now);
        let counts = |keep: &Keep<Fake>| (keep.rules.replaced, keep.rules.amended, keep.rules.read);
        assert_eq!(counts(&keep), (1, 1, 0));
        assert_eq!(keep.rules.table, Some(listed(&ruleset(B).body())));
        // It is known what the kernel shows then: it looks, and nobody else was there.
        keep.stirred(now + 200 * MS);
        keep.turn(now + 200 * MS);
        assert_eq!((counts(&keep), keep.state.restored), ((1, 1, 1), 0));
        // Somebody was: what stands is not what could be changed.
        keep.rules.table = Some(listed(&ruleset("198.18.0.0/15").body()));
        keep.stirred(now + 400 * MS);
        keep.want(ruleset(A), now + 400 * MS);
        keep.turn(now + 400 * MS);
        assert_eq!((counts(&keep), keep.state.restored), ((2, 1, 2), 1));
        assert_eq!(keep.rules.table, Some(listed(&ruleset(A).body())));
        // Nobody has said so: the kernel refuses, and all of it is put there.
        keep.rules.table = Some(listed(&ruleset("198.18.0.0/15").body()));
        keep.want(ruleset(B), now + 600 * MS);
        keep.turn(now + 600 * MS);
        assert_eq!((counts(&keep), keep.state.restored), ((3, 2, 2), 1));
        assert_eq!(keep.rules.table, Some(listed(&ruleset(B).body())));
        // Who has what is different, but not what there is: nothing to be done.
        let mut twice = view();
        let b = Arc::clone(twice.others.get("b").unwrap());
        twice.others.insert("namesake".to_owned(), b);
        let twice = ruleset_in(B, &twice);
        assert_ne!(twice, ruleset(B));
        keep.want(Arc::clone(&twice), now + 700 * MS);
        keep.turn(now + 700 * MS);
        assert_eq!(
            (counts(&keep), keep.standing.as_ref().unwrap().rules == twice),
            ((3, 2, 2), true)
        );
        // Very much is put there anew at once.
        let many: Vec<_> =
            (0..=LITTLE).map(|n| format!("172.{}.{}.1/32", n / 200, n % 200)).collect();
        keep.want(ruleset(&many.join(" ")), now + 800 * MS);
        keep.turn(now + 800 * MS);
        assert_eq!(counts(&keep), (4, 2, 2));
    }

    #[test]
    fn what_is_wanted_is_applied_once_and_looked_at() {
        let (mut keep, now) = keep(false);
        assert_eq!(keep.turn(now), None);
        keep.want(ruleset(A), now);
        let next = keep.turn(now).unwrap();
        assert_eq!((next - now, keep.rules.replaced, keep.rules.read), (LOOK, 1, 0));
        keep.want(ruleset(A), now + MS);
        assert_eq!(keep.turn(now + MS), Some(next));
        keep.turn(next);
        assert_eq!((keep.rules.replaced, keep.rules.read), (1, 1));
        keep.want(ruleset(B), next);
        keep.turn(next);
        assert_eq!(keep.rules.table, Some(listed(&ruleset(B).body())));
        assert_eq!(keep.state, KeeperState { stands: true, trouble: None, restored: 0 });
    }

    #[test]
    fn a_table_that_is_gone_or_changed_is_back_within_a_second() {
        for harm in [None, Some("flushed".to_owned())] {
            let (mut keep, now) = keep(false);
            keep.want(ruleset(A), now);
            let next = keep.turn(now).unwrap();
            keep.rules.table = harm;
            assert!(next - now < Duration::from_secs(1));
            keep.turn(next);
            assert_eq!(keep.rules.table, Some(listed(&ruleset(A).body())));
            assert_eq!(keep.state.restored, 1);
        }
    }

    #[test]
    fn a_word_of_the_kernel_makes_it_look_at_once_but_not_all_the_time() {
        let (mut keep, now) = keep(true);
        keep.want(ruleset(A), now);
        assert_eq!(keep.turn(now), Some(now + LOOK_ANYWAY));
        // The word about what it did itself: it looks, and finds nothing wrong.
        keep.stirred(now + 200 * MS);
        keep.turn(now + 200 * MS);
        assert_eq!((keep.rules.replaced, keep.rules.read), (1, 1));
        keep.rules.table = None;
        keep.stirred(now + 210 * MS);
        let next = keep.turn(now + 210 * MS).unwrap();
        assert_eq!(next, now + 200 * MS + PAUSE);
        keep.turn(next);
        assert_eq!((keep.rules.replaced, keep.state.restored), (2, 1));
    }

    #[test]
    fn it_is_looked_at_however_often_something_else_is_wanted() {
        for told in [false, true] {
            let (mut keep, mut now) = keep(told);
            keep.want(ruleset(A), now);
            keep.turn(now);
            let begun = now;
            let harmed = listed(&ruleset(A).body()).replace("goto to_pods", "accept");
            keep.rules.table = Some(harmed);
            let mut turns = 0;
            while keep.state.restored == 0 {
                now += 100 * MS;
                turns += 1;
                keep.want(ruleset(if turns % 2 == 0 { A } else { B }), now);
                keep.turn(now);
                assert!(now - begun <= keep.interval() + 100 * MS, "{:?}", now - begun);
            }
            let wanted = ruleset(if turns % 2 == 0 { A } else { B });
            assert_eq!(keep.rules.table, Some(listed(&wanted.body())));
        }
    }

    #[test]
    fn who_was_at_it_at_the_same_time_is_not_taken_for_oneself() {
        let read = |keep: &Keep<Fake>| (keep.rules.replaced, keep.rules.read);
        // Replaced, and in between somebody else has changed what was read then.
        let (mut keep, now) = keep(true);
        keep.want(ruleset(A), now);
        keep.turn(now);
        keep.heard_since(Word::Once, now);
        assert_eq!(keep.turn(now + 200 * MS), Some(now + LOOK_ANYWAY));
        keep.want(ruleset(B), now);
        keep.standing = None;
        keep.turn(now + 200 * MS);
        keep.heard_since(Word::Several, now + 200 * MS);
        keep.turn(now + 400 * MS);
        assert_eq!(read(&keep), (3, 0), "it is put there again");
        keep.heard_since(Word::Lost, now + 400 * MS);
        keep.turn(now + 600 * MS);
        assert_eq!(read(&keep), (3, 1), "it is looked at");
        // Amended: what it is to be is known beforehand.
        keep.want(ruleset(A), now + 600 * MS);
        keep.turn(now + 600 * MS);
        keep.heard_since(Word::Once, now + 600 * MS);
        keep.turn(now + 800 * MS);
        assert_eq!(read(&keep), (3, 1));
        keep.want(ruleset(B), now + 800 * MS);
        keep.turn(now + 800 * MS);
        keep.heard_since(Word::Several, now + 800 * MS);
        keep.turn(now + 1000 * MS);
        assert_eq!(read(&keep), (3, 2));
        // Of what others did while nothing was done from here, it is told otherwise.
        keep.heard_since(Word::Several, now + 1000 * MS);
        assert_eq!(keep.turn(now + 1200 * MS), Some(now + 1000 * MS + LOOK_ANYWAY));
    }

    #[test]
    fn a_refusal_is_told_and_tried_again_ever_later() {
        let (mut keep, mut now) = keep(true);
        keep.rules.refuses = true;
        keep.want(ruleset(A), now);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let next = keep.turn(now).unwrap();
            assert_eq!((next - now).as_secs(), seconds);
            keep.stirred(now + MS);
            assert_eq!(keep.turn(now + MS), Some(next), "a word does not hasten it");
            now = next;
        }
        assert_eq!(keep.state.trouble.as_deref(), Some("nft(8) is not installed"));
        assert!(!keep.state.stands);
        keep.rules.refuses = false;
        keep.turn(now);
        assert_eq!(keep.state, KeeperState { stands: true, trouble: None, restored: 0 });
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let keeper = Keeper::start(Fake::default(), None).unwrap();
        keeper.want(Ruleset::clone(&ruleset(A)));
        let begun = Instant::now();
        while !keeper.state().stands {
            assert!(begun.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        }
        drop(keeper);
    }
}
