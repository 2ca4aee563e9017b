//! The privileged verbs, wherever they are done.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::Socket;

use super::client::{Client, Unanswered};
use super::rules::{self, RulesError};
use super::wire::{PATHS_MAX, Reply, Request};
use crate::device::adopt::{self, Expectation};
use crate::device::error::{Cause, DeviceError, Told};
use crate::device::make::{self, Made, Removal};
use crate::device::many;
use crate::device::netlink::{Netlink, NetlinkError};
use crate::device::netns::{self, NetnsIdentity};
use crate::device::offload::OffloadWish;
use crate::device::spec::{Facts, NetnsRef, Standing, TapSpec};
use crate::gateway::firewall::{self, PodNetwork};
use crate::gateway::port::tune;
use crate::gateway::preflight::Finding;
use crate::gateway::rules::{Rules, SetChange, TABLE};
use crate::gateway::stir::Stirs;
use crate::gateway::ways::{Direct, Reconciled, reconcile};

/// Who does what needs CAP_NET_ADMIN or CAP_SYS_ADMIN.
#[derive(Clone, Debug)]
pub struct Hands(Whose);

#[derive(Clone, Debug)]
enum Whose {
    Own,
    Helper(Arc<Client>),
}

impl Hands {
    /// The helper that listens at this path; without one, this process itself.
    #[must_use]
    pub fn new(helper: Option<&Path>) -> Self {
        Self(
            helper.map_or(Whose::Own, |path| Whose::Helper(Arc::new(Client::new(path.to_owned())))),
        )
    }

    /// For several verbs in a row: they are done over one connection.
    #[must_use]
    pub fn hand(&self) -> Hand<'_> {
        Hand { hands: self, connection: None }
    }

    /// Does `work` for each item, several at a time, and returns what came of each, in the items'
    /// order. Those with the same `place`, the path of a namespace, are done in a row, so that
    /// whoever does it enters once for many of them.
    ///
    /// A panic in `work` is passed on.
    pub fn for_each<T: Sync, R: Send>(
        &self,
        items: &[T],
        place: impl Fn(&T) -> Option<PathBuf>,
        work: impl Fn(&mut Hand<'_>, &T) -> R + Sync,
    ) -> Vec<R> {
        match &self.0 {
            Whose::Own => many::for_each(items, place, |item| work(&mut self.hand(), item)),
            Whose::Helper(_) => many::in_rows(items, place, |_, row| {
                let mut hand = self.hand();
                row.iter().map(|item| work(&mut hand, item)).collect()
            }),
        }
    }

    /// Which namespaces these paths lead to; `None`: to none. What cannot be told has words instead.
    #[must_use]
    pub fn look(&self, paths: &[PathBuf]) -> Vec<Result<Option<NetnsIdentity>, String>> {
        let Whose::Helper(client) = &self.0 else {
            let look = |path: &PathBuf| netns::identity_of(path).map_err(|e| e.to_string());
            return paths.iter().map(look).collect();
        };
        // Who looks each second does not wait for a helper that is known to be away.
        if let Some(trouble) = client.trouble() {
            return vec![Err(trouble); paths.len()];
        }
        let (mut hand, mut seen) = (self.hand(), Vec::with_capacity(paths.len()));
        for paths in paths.chunks(PATHS_MAX) {
            let some = match hand.ask(&Request::Look { paths: paths.to_owned() }, &[]) {
                Ok((Reply::Seen(some), _)) if some.len() == paths.len() => some,
                Ok((reply, _)) => vec![Err(unexpected(reply)); paths.len()],
                Err(error) => vec![Err(error.to_string()); paths.len()],
            };
            seen.extend(some);
        }
        seen
    }

    /// Replaces the table `inet tapestry` as a whole, in one transaction, in the own network
    /// namespace. `body` is what stands between the table's braces (nft(8)), without comments and
    /// variables. Returns the table as the kernel now shows it, without counters.
    ///
    /// # Errors
    ///
    /// When `body` is not the inside of one table, or nft or the helper refuses: in words. The
    /// table is as it was then.
    pub fn replace_rules(&self, body: &str) -> Result<String, RulesError> {
        let table = match &self.0 {
            Whose::Own => rules::replace(body).map(Some),
            Whose::Helper(_) => self.rules(&Request::ReplaceRules { body: body.to_owned() }),
        };
        table.map(Option::unwrap_or_default)
    }

    /// Changes what is in the sets of the table `inet tapestry`, in one transaction, in the own
    /// network namespace.
    ///
    /// # Errors
    ///
    /// When a name or an element is none, or nft or the helper refuses, as it does if there is not
    /// what should go: in words. The table is as it was then.
    pub fn amend_rules(&self, changes: &[SetChange]) -> Result<(), RulesError> {
        match &self.0 {
            Whose::Own => rules::amend(changes),
            Whose::Helper(_) => {
                self.rules(&Request::AmendRules { changes: changes.to_vec() }).map(drop)
            }
        }
    }

    /// The table `inet tapestry` as the kernel shows it, without counters; `None`: there is none.
    ///
    /// # Errors
    ///
    /// When nft or the helper refuses: in words.
    pub fn read_rules(&self) -> Result<Option<String>, RulesError> {
        match &self.0 {
            Whose::Own => rules::read(),
            Whose::Helper(_) => self.rules(&Request::ReadRules),
        }
    }

    /// Removes the table `inet tapestry`, if there is one.
    ///
    /// # Errors
    ///
    /// When nft or the helper refuses: in words.
    pub fn remove_rules(&self) -> Result<(), RulesError> {
        match &self.0 {
            Whose::Own => rules::remove(),
            Whose::Helper(_) => self.rules(&Request::RemoveRules).map(drop),
        }
    }

    /// As [`tune`], of a device in the own network namespace.
    ///
    /// # Errors
    ///
    /// What the kernel or the helper says; also when the device is none of the daemon's.
    pub fn tune(&self, ifindex: u32) -> Result<(), VerbError> {
        if matches!(self.0, Whose::Own) {
            return Ok(tune(&mut Netlink::open()?, ifindex)?);
        }
        match self.hand().ask(&Request::Tune { ifindex }, &[]) {
            Ok((Reply::Tuned, _)) => Ok(()),
            Ok((reply, _)) => Err(VerbError(unexpected(reply))),
            Err(error) => Err(VerbError(self.named(&error))),
        }
    }

    /// As [`reconcile`], in the own network namespace.
    ///
    /// # Errors
    ///
    /// What the kernel or the helper says; what could be done besides is done.
    pub fn reconcile(&self, routes: &[Direct]) -> Result<Reconciled, VerbError> {
        if matches!(self.0, Whose::Own) {
            return Ok(reconcile(&mut Netlink::open()?, routes)?);
        }
        match self.hand().ask(&Request::Routes { routes: routes.to_owned() }, &[]) {
            Ok((Reply::Routes(done), _)) => Ok(done),
            Ok((reply, _)) => Err(VerbError(unexpected(reply))),
            Err(error) => Err(VerbError(self.named(&error))),
        }
    }

    /// The kernel's word about changes of the table, in the own network namespace.
    ///
    /// # Errors
    ///
    /// Those of [`Stirs::open`], and that the helper cannot be asked.
    pub fn listen(&self) -> Result<Stirs, VerbError> {
        if matches!(self.0, Whose::Own) {
            return Stirs::open(TABLE).map_err(|error| VerbError(error.to_string()));
        }
        match self.hand().ask(&Request::Listen, &[]) {
            Ok((Reply::Listening, mut sockets)) if sockets.len() == 1 => {
                Ok(Stirs::adopt(sockets.remove(0), TABLE))
            }
            Ok((reply, _)) => Err(VerbError(unexpected(reply))),
            Err(error) => Err(VerbError(self.named(&error))),
        }
    }

    /// As [`firewall::look`], in the own network namespace.
    ///
    /// # Errors
    ///
    /// Those, and that the helper cannot be asked.
    pub fn firewalls(&self, pods: &PodNetwork) -> Result<Vec<Finding>, VerbError> {
        if matches!(self.0, Whose::Own) {
            return firewall::look(pods).map_err(VerbError);
        }
        match self.hand().ask(&Request::Firewalls { pods: pods.clone() }, &[]) {
            Ok((Reply::Found(found), _)) => Ok(found),
            Ok((reply, _)) => Err(VerbError(unexpected(reply))),
            Err(error) => Err(VerbError(self.named(&error))),
        }
    }

    fn rules(&self, request: &Request) -> Result<Option<String>, RulesError> {
        match self.hand().ask(request, &[]) {
            Ok((Reply::Rules(table), _)) => Ok(table),
            Ok((reply, _)) => Err(RulesError(unexpected(reply))),
            Err(error) => Err(RulesError(self.named(&error))),
        }
    }

    /// The socket of the helper, if there is to be one.
    #[must_use]
    pub fn helper(&self) -> Option<&Path> {
        match &self.0 {
            Whose::Own => None,
            Whose::Helper(client) => Some(client.path()),
        }
    }

    /// What is wrong with the helper, in words, while something is.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &self.0 {
            Whose::Own => None,
            Whose::Helper(client) => client.trouble(),
        }
    }

    /// Looks whether the helper is there, briefly. Returns whether it is back after it was asked in
    /// vain: what failed meanwhile may be tried again.
    #[must_use]
    pub fn is_back(&self) -> bool {
        match &self.0 {
            Whose::Own => false,
            Whose::Helper(client) => client.glance(),
        }
    }

    fn named(&self, error: &Unanswered) -> String {
        let path = self.helper().unwrap_or(Path::new(""));
        format!("the helper at {}: {error}", path.display())
    }
}

impl Rules for Hands {
    fn replace(&mut self, body: &str) -> Result<String, String> {
        self.replace_rules(body).map_err(|error| error.to_string())
    }

    fn amend(&mut self, changes: &[SetChange]) -> Result<(), String> {
        self.amend_rules(changes).map_err(|error| error.to_string())
    }

    fn read(&mut self) -> Result<Option<String>, String> {
        self.read_rules().map_err(|error| error.to_string())
    }
}

/// Why the kernel's settings are not what they were to be, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VerbError(String);

impl From<NetlinkError> for VerbError {
    fn from(error: NetlinkError) -> Self {
        Self(error.to_string())
    }
}

/// One of the [`Hands`]: verbs, one after the other.
#[derive(Debug)]
pub struct Hand<'a> {
    hands: &'a Hands,
    connection: Option<Socket>,
}

impl Hand<'_> {
    /// As [`make::make`].
    ///
    /// # Errors
    ///
    /// Those, and that the helper cannot be asked. Then the device may have been made all the same:
    /// it is [`Cause::Taken`] the next time, and can be adopted.
    pub fn make(&mut self, spec: &TapSpec) -> Result<Made, DeviceError> {
        if matches!(self.hands.0, Whose::Own) {
            return make::make(spec);
        }
        let at = At::of(spec);
        self.device(at, &Request::Make { spec: spec.clone() }, spec.queues)
    }

    /// As [`adopt::adopt`].
    ///
    /// # Errors
    ///
    /// Those, and that the helper cannot be asked.
    pub fn reopen(&mut self, spec: &TapSpec, expect: &Expectation) -> Result<Made, DeviceError> {
        if matches!(self.hands.0, Whose::Own) {
            return adopt::adopt(spec, expect);
        }
        let request = Request::Reopen { spec: spec.clone(), expect: expect.clone() };
        self.device(At::of(spec), &request, spec.queues)
    }

    /// As [`make::configure`].
    ///
    /// # Errors
    ///
    /// Those, and that the helper cannot be asked.
    pub fn configure(
        &mut self,
        spec: &TapSpec,
        ifindex: u32,
        previous: &Standing,
    ) -> Result<Vec<String>, DeviceError> {
        if matches!(self.hands.0, Whose::Own) {
            return make::configure(spec, ifindex, previous);
        }
        let at = At::of(spec);
        let (spec, previous) = (spec.clone(), previous.clone());
        match self.verb(at, &Request::Configure { spec, ifindex, previous }, &[])? {
            (Reply::Changes(changes), _) => Ok(changes),
            (reply, _) => Err(self.strange(at, reply)),
        }
    }

    /// As [`make::remove`].
    ///
    /// # Errors
    ///
    /// Those, and that the helper cannot be asked.
    pub fn remove(
        &mut self,
        netns: Option<&NetnsRef>,
        ifname: &str,
        expect: &Expectation,
    ) -> Result<Removal, DeviceError> {
        if matches!(self.hands.0, Whose::Own) {
            return make::remove(netns, ifname, expect);
        }
        let (at, expect) = (At { netns, ifname }, expect.clone());
        let request = Request::Remove { netns: netns.cloned(), ifname: ifname.to_owned(), expect };
        match self.verb(at, &request, &[])? {
            (Reply::Removal(removal), _) => Ok(removal),
            (reply, _) => Err(self.strange(at, reply)),
        }
    }

    /// As [`adopt::adopt_descriptors`]: to tell where a device is, and to look at it there, takes
    /// rights as well.
    ///
    /// # Errors
    ///
    /// Those, and that the helper cannot be asked.
    pub fn adopt(
        &mut self,
        queues: Vec<OwnedFd>,
        expect: &Expectation,
        wish: OffloadWish,
    ) -> Result<Made, DeviceError> {
        if matches!(self.hands.0, Whose::Own) {
            return adopt::adopt_descriptors(queues, expect, wish);
        }
        let at = At { netns: None, ifname: "(descriptor)" };
        let rights: Vec<BorrowedFd<'_>> = queues.iter().map(|queue| queue.as_fd()).collect();
        let facts =
            match self.verb(at, &Request::Adopt { expect: expect.clone(), wish }, &rights)? {
                (Reply::Device(facts), _) => facts,
                (reply, _) => return Err(self.strange(at, reply)),
            };
        Ok(Made { queues, facts })
    }

    fn device(
        &mut self,
        at: At<'_>,
        request: &Request,
        expected: u16,
    ) -> Result<Made, DeviceError> {
        match self.verb(at, request, &[])? {
            (Reply::Device(facts), queues) if queues.len() == usize::from(expected) => {
                Ok(Made { queues, facts })
            }
            (Reply::Device(Facts { ifname, .. }), queues) => {
                let text =
                    format!("{} descriptors came for {ifname}, not {expected}", queues.len());
                Err(at.error(text, None))
            }
            (reply, _) => Err(self.strange(at, reply)),
        }
    }

    fn verb(
        &mut self,
        at: At<'_>,
        request: &Request,
        rights: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), DeviceError> {
        match self.ask(request, rights) {
            Ok((Reply::Failed(failure), _)) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            Err(error) => Err(at.error(self.hands.named(&error), error.errno())),
        }
    }

    fn strange(&self, at: At<'_>, reply: Reply) -> DeviceError {
        at.error(self.hands.named(&Unanswered::Refused(unexpected(reply))), None)
    }

    fn ask(
        &mut self,
        request: &Request,
        rights: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Unanswered> {
        match &self.hands.0 {
            Whose::Helper(client) => client.ask(&mut self.connection, request, rights),
            Whose::Own => Err(Unanswered::Refused("there is none".to_owned())),
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        if let (Whose::Helper(client), Some(connection)) = (&self.hands.0, self.connection.take()) {
            client.keep(connection);
        }
    }
}

fn unexpected(reply: Reply) -> String {
    match reply {
        Reply::Refused(why) => why,
        _ => "it answers something else than was asked".to_owned(),
    }
}

/// Where a device is, for its errors.
#[derive(Clone, Copy)]
struct At<'a> {
    netns: Option<&'a NetnsRef>,
    ifname: &'a str,
}

impl<'a> At<'a> {
    fn of(spec: &'a TapSpec) -> Self {
        Self { netns: spec.netns.as_ref(), ifname: &spec.ifname }
    }

    fn error(self, text: String, errno: Option<i32>) -> DeviceError {
        DeviceError {
            ifname: self.ifname.to_owned(),
            netns: self.netns.cloned(),
            step: "ask the helper".into(),
            cause: Cause::Told(Told { text, errno, netns_absent: false }),
        }
    }
}
