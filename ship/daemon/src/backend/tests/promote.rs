//! pg_promote, and what a session notices of a promotion.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use tokio::sync::{oneshot, watch};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::{params_of, query, shown, snapshot, talk_to};
use walhub_hub::api::hub::{Hub, Identity, Positions, Snapshot};

type Reply = oneshot::Sender<Result<(), Report>>;

/// What comes of a request to promote.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promotes {
    Soon,
    Never,
    Refused,
}

struct Relay {
    promotes: Promotes,
    /// What identity it has: majors before 14 report no role.
    version_num: u32,
    state: Mutex<(bool, Vec<Reply>)>,
}

impl Relay {
    fn new(promotes: Promotes) -> Self {
        Self { promotes, version_num: 150_018, state: Mutex::default() }
    }
}

impl Hub<OwnedFd> for Relay {
    quiet!(views streams end_stream append wait cancel_wait);

    fn identity(&self) -> Option<Identity> {
        let identity = snapshot(true).identity;
        identity.map(|identity| Identity { server_version_num: self.version_num, ..identity })
    }

    fn positions(&self) -> Option<Positions> {
        snapshot(true).positions
    }

    fn in_recovery(&self) -> bool {
        !self.state.lock().unwrap().0
    }

    fn snapshot(&self) -> Snapshot {
        snapshot(self.in_recovery())
    }

    fn promote(&self) -> oneshot::Receiver<Result<(), Report>> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state.lock().unwrap();
        match self.promotes {
            Promotes::Soon => {
                state.0 = true;
                drop(reply.send(Ok(())));
            }
            Promotes::Never => state.1.push(reply),
            Promotes::Refused => {
                let code = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
                drop(reply.send(Err(Report::error(code, "no checkpoint"))));
            }
        }
        answer
    }
}

/// The answers to each of the queries, in one session.
fn talk(relay: Relay, queries: &[&str]) -> Vec<Vec<String>> {
    let params = params_of(Arc::new(relay), &watch::Sender::new(false));
    let input = queries.iter().flat_map(|sql| query(sql)).collect::<Vec<u8>>();
    let lines = shown(&talk_to(params, &input).0);
    let mut answers = vec![Vec::new()];
    for line in lines {
        let is_end = line.starts_with('Z');
        if !line.starts_with("T ") && !is_end {
            answers.last_mut().unwrap().push(line);
        }
        if is_end {
            answers.push(Vec::new());
        }
    }
    answers.pop();
    answers
}

#[test]
fn a_session_is_told_once_that_the_server_is_a_primary() {
    let queries =
        ["show in_hot_standby", "select pg_promote()", "select pg_is_in_recovery()", "select 1"];
    let answers = talk(Relay::new(Promotes::Soon), &queries);
    assert_eq!(answers[0], ["on", "C SHOW"]);
    assert_eq!(answers[1], ["t", "C SELECT 1", "S in_hot_standby=off"]);
    assert_eq!(answers[2], ["f", "C SELECT 1"]);
    assert_eq!(answers[3], ["1", "C SELECT 1"]);
    // PostgreSQL 13 does not know the parameter.
    let relay = Relay { version_num: 130_020, ..Relay::new(Promotes::Soon) };
    assert_eq!(talk(relay, &queries)[1], ["t", "C SELECT 1"]);
}

#[test]
fn arguments_are_checked_as_postgresql_does() {
    for (sql, want) in [
        ("select pg_promote(true, 0)", "ERROR 22003 \"wait_seconds\" must not be negative or zero"),
        (
            "select pg_promote(wait_seconds => -1)",
            "ERROR 22003 \"wait_seconds\" must not be negative or zero",
        ),
        ("select pg_promote(seconds => 1)", "ERROR 42883 function pg_promote does not exist"),
        ("select pg_promote(true, wait => true)", "ERROR 42883 function pg_promote does not exist"),
        ("select pg_promote(true, 1, 2)", "ERROR 42883 function pg_promote(boolean"),
    ] {
        let answers = talk(Relay::new(Promotes::Soon), &[sql, "select pg_is_in_recovery()"]);
        assert!(answers[0][0].starts_with(want), "{sql}: {:?}", answers[0]);
        assert_eq!(answers[1], ["t", "C SELECT 1"], "{sql}");
    }
    for sql in [
        "select pg_promote(true, 5)",
        "select pg_promote(wait => true)",
        "select pg_promote(wait_seconds => 7)",
        "select pg_promote(wait_seconds => 7, wait => false)",
        "select pg_promote(false)",
    ] {
        let answers = talk(Relay::new(Promotes::Soon), &[sql, "select pg_promote()"]);
        assert_eq!(answers[0][0], "t", "{sql}");
        assert_eq!(answers[1][0], "ERROR 55000 recovery is not in progress", "{sql}");
    }
}

#[test]
fn who_waits_in_vain_is_warned_and_who_does_not_wait_is_not() {
    let queries = ["select pg_promote(true, 1)", "select pg_promote(false)"];
    let answers = talk(Relay::new(Promotes::Never), &queries);
    let warning = "WARNING 01000 server did not promote within 1 second";
    assert_eq!(answers[0], [warning, "f", "C SELECT 1"]);
    assert_eq!(answers[1], ["t", "C SELECT 1"]);
    let answers = talk(Relay::new(Promotes::Refused), &queries);
    assert_eq!(answers[0], ["ERROR 55000 no checkpoint"]);
    assert_eq!(answers[1], ["t", "C SELECT 1"]);
}
