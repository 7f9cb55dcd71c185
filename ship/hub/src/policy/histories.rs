//! Which timeline history files are here, and what those of later timelines say.
//!
//! Standbys look for the newest timeline number by number, so every number has to have a file that the
//! upstream has one of: also a number that the newest history skips, and those of before this hub began.
//! One that is here is not fetched again, unless it is of a timeline that is yet to come and says something
//! else about it than the upstream does.
//!
//! Not here: asking for them (`walhub_proto::walreceiver`).
//!
//! PostgreSQL: `existsTimeLineHistory` (src/backend/access/transam/timeline.c).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use walhub_engine::io::Io;
use walhub_proto::history::{self, TimelineHistory};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::walreceiver::KnownHistories;

use crate::store::jobs::{JobError, Jobs, replace_steps};
use crate::store::segments::FileJob;

/// The longest history file that is kept: some two thousand timelines.
const HISTORY_BYTES_MAX: usize = 128 << 10;

/// The history files of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    /// Whose they are; `None` before the first contact.
    of: Option<SystemIdentifier>,
    known: KnownHistories,
    /// The timeline of the upstream that said which ones it does not have.
    absent_on: Option<TimelineId>,
    /// Those of timelines later than the current one.
    later: BTreeMap<TimelineId, TimelineHistory>,
    /// Those whose files are being written.
    saving: BTreeMap<TimelineId, TimelineHistory>,
    /// Timelines that have a history file here, of whichever history.
    files: BTreeSet<TimelineId>,
}

impl Histories {
    /// Those that a start-up found.
    pub(crate) fn found(
        of: Option<SystemIdentifier>,
        current: Option<TimelineId>,
        found: Vec<TimelineHistory>,
        files: BTreeSet<TimelineId>,
    ) -> Self {
        let mut histories = Self { of, files, ..Self::default() };
        found.into_iter().for_each(|history| histories.keep(history));
        current.into_iter().for_each(|current| histories.adopt(current));
        histories
    }

    /// An upstream has said who it is. What another cluster gave before there was any WAL is forgotten, and
    /// what this one did not have it may have now that its timeline is another one.
    pub(crate) fn meet(&mut self, upstream: SystemIdentifier, timeline: TimelineId) {
        if self.of.is_some_and(|of| of != upstream) {
            let (saving, files) =
                (std::mem::take(&mut self.saving), std::mem::take(&mut self.files));
            *self = Self { saving, files, ..Self::default() };
        }
        self.of = Some(upstream);
        if self.absent_on != Some(timeline) {
            self.ask_again();
        }
        self.absent_on = Some(timeline);
    }

    /// What the upstream did not have is asked for again.
    pub(crate) fn ask_again(&mut self) {
        self.known.absent.clear();
    }

    /// What a receiver need not ask for.
    pub(crate) fn known(&self) -> KnownHistories {
        self.known.clone()
    }

    /// Keeps a history file that the upstream has sent, before any WAL of its timeline. Nothing is taken from
    /// the upstream until it is durable. PostgreSQL: `WalRcvFetchTimeLineHistoryFiles`.
    ///
    /// # Errors
    /// When it is no history file.
    pub(crate) fn handle_received<I: Io>(
        &mut self,
        io: &mut I,
        jobs: &mut Jobs<FileJob>,
        wal_dir: &Path,
        timeline: TimelineId,
        content: Vec<u8>,
    ) -> Result<(), String> {
        let name = history::file_name(timeline);
        let history = read_history(timeline, &content)
            .map_err(|why| format!("invalid timeline history file {name}: {why}"))?;
        if self.has(&history) {
            self.keep(history);
            return Ok(());
        }
        tracing::info!(
            "fetching timeline history file for timeline {timeline} from primary server"
        );
        self.saving.insert(timeline, history);
        let steps = replace_steps(&wal_dir.join(&name), content);
        jobs.start(io, FileJob::History(timeline), steps);
        Ok(())
    }

    /// Takes the end of a [`FileJob::History`].
    ///
    /// # Errors
    /// When the file could not be written.
    pub(crate) fn handle_saved(
        &mut self,
        timeline: TimelineId,
        result: Result<(), JobError>,
    ) -> Result<(), String> {
        let Some(history) = self.saving.remove(&timeline) else { return Ok(()) };
        result.map_err(|error| format!("could not write timeline history file: {error}"))?;
        self.files.insert(timeline);
        self.keep(history);
        Ok(())
    }

    /// Whether files are being written.
    pub(crate) fn is_saving(&self) -> bool {
        !self.saving.is_empty()
    }

    /// There is a history file of this timeline.
    pub(crate) fn note_file(&mut self, timeline: TimelineId) {
        self.files.insert(timeline);
    }

    /// The greatest timeline that is known here, `current` among them. PostgreSQL: `findNewestTimeLine`.
    pub(crate) fn newest(&self, current: TimelineId) -> TimelineId {
        self.files.last().map_or(current, |&newest| newest.max(current))
    }

    /// Whether exactly this one is here already.
    fn has(&self, history: &TimelineHistory) -> bool {
        self.later.get(&history.tli()) == Some(history)
    }

    /// One is here, as of now.
    fn keep(&mut self, history: TimelineHistory) {
        self.known.held.insert(history.tli());
        self.later.insert(history.tli(), history);
    }

    /// The upstream does not have one, which is said once. Standbys that ask for it are told what is known,
    /// so that they do not wait for it for ever.
    pub(crate) fn note_absent(&mut self, timeline: TimelineId, detail: &str) {
        if self.known.absent.insert(timeline) {
            tracing::info!(detail, "there is no timeline history file for timeline {timeline}");
        }
    }

    /// The history of a timeline that leaves `current` at `switchpoint`.
    ///
    /// # Errors
    /// When there is none, or when it says something else: then it is fetched again the next time.
    pub(crate) fn of_next(
        &mut self,
        timeline: TimelineId,
        current: TimelineId,
        switchpoint: Lsn,
    ) -> Result<TimelineHistory, String> {
        let Some(history) = self.later.get(&timeline) else {
            return Err(format!("no history of timeline {timeline} was received"));
        };
        if history.switchpoint(current) == Some((switchpoint, timeline)) {
            return Ok(history.clone());
        }
        self.known.held.remove(&timeline);
        Err(format!(
            "the primary server goes from timeline {current} to timeline {timeline} at {switchpoint}, \
             which is not what that timeline's history file says"
        ))
    }

    /// The history of the timeline on which the first WAL is.
    pub(crate) fn of_first(&self, timeline: TimelineId) -> Result<TimelineHistory, String> {
        match self.later.get(&timeline) {
            Some(history) => Ok(history.clone()),
            None if timeline == TimelineId::FIRST => Ok(TimelineHistory::single(timeline)),
            None => Err(format!("no history of timeline {timeline} was received")),
        }
    }

    /// This is the current timeline from now on: what came before is no longer needed in memory.
    pub(crate) fn adopt(&mut self, current: TimelineId) {
        self.known.held.insert(current);
        self.later.retain(|&timeline, _| timeline > current);
    }
}

/// What a history file says that the upstream has sent.
fn read_history(timeline: TimelineId, content: &[u8]) -> Result<TimelineHistory, String> {
    if content.len() > HISTORY_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, at most {HISTORY_BYTES_MAX} are taken",
            content.len()
        ));
    }
    TimelineHistory::parse(content, timeline).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn history(timeline: u32, content: &str) -> TimelineHistory {
        TimelineHistory::parse(content, tli(timeline)).unwrap()
    }

    const TWO: &str = "1\t0/3000100\tno recovery target specified\n";

    #[test]
    fn a_history_that_disagrees_with_the_upstream_is_fetched_again_and_taken_once_it_agrees() {
        let cluster = SystemIdentifier(1);
        let stale = history(2, "1\t0/2000000\tan aborted failover\n");
        let mut histories =
            Histories::found(Some(cluster), Some(tli(1)), vec![stale.clone()], BTreeSet::new());
        histories.meet(cluster, tli(2));
        assert!(histories.known().held.contains(&tli(2)));
        let refused = histories.of_next(tli(2), tli(1), Lsn(0x300_0100)).unwrap_err();
        assert!(refused.contains("0/3000100"), "{refused}");
        assert!(!histories.known().held.contains(&tli(2)), "it is asked for again");
        // The same one again need not be written.
        assert!(histories.has(&stale));
        histories.keep(history(2, TWO));
        assert!(histories.of_next(tli(2), tli(1), Lsn(0x300_0100)).is_ok());
    }

    #[test]
    fn what_another_cluster_gave_before_the_first_wal_is_forgotten() {
        let mut histories = Histories::found(None, None, vec![], BTreeSet::new());
        histories.meet(SystemIdentifier(1), tli(2));
        histories.keep(history(2, TWO));
        histories.meet(SystemIdentifier(1), tli(2));
        assert!(histories.of_first(tli(2)).is_ok());
        histories.meet(SystemIdentifier(2), tli(2));
        assert_eq!(histories.known(), KnownHistories::default());
        assert!(histories.of_first(tli(2)).is_err());
        assert!(histories.of_first(tli(1)).is_ok(), "timeline 1 has none");
    }

    #[test]
    fn what_an_upstream_does_not_have_is_not_asked_for_until_its_timeline_is_another_one() {
        let mut histories = Histories::default();
        histories.meet(SystemIdentifier(1), tli(3));
        let is_asked_for = |histories: &Histories| !histories.known().absent.contains(&tli(2));
        assert!(is_asked_for(&histories));
        histories.note_absent(tli(2), "");
        assert!(!is_asked_for(&histories));
        histories.meet(SystemIdentifier(1), tli(3));
        assert!(!is_asked_for(&histories));
        histories.meet(SystemIdentifier(1), tli(4));
        assert!(is_asked_for(&histories));
        histories.note_absent(tli(2), "");
        histories.ask_again();
        assert!(is_asked_for(&histories));
    }
}
