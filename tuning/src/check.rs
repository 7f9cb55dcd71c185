//! Compares the machine with a profile.

use serde::Serialize;

use crate::limits::has_systemd;
use crate::machine::Machine;
use crate::profile::{Kind, Knob, Profile, Rule};
use crate::system::System;
use crate::target::{Target, targets};

/// What came of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is as wanted.
    Ok,
    /// It is not, and `apply` would change it.
    Differs,
    /// This kernel or machine has no such knob.
    Missing,
    /// It is not as wanted, or cannot be seen, and only an administrator can decide.
    Advice,
    /// It is shown only.
    Info,
}

impl State {
    /// Its word in a table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Differs => "differs",
            Self::Missing => "missing",
            Self::Advice => "advice",
            Self::Info => "info",
        }
    }
}

/// One knob at one place.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What came of it.
    pub state: State,
    /// Where: a disk, a CPU policy, a card, or nothing.
    pub place: String,
    /// The value now.
    pub now: Option<String>,
    /// The value wanted: what is set already when that is better.
    pub wanted: String,
    /// The knob.
    #[serde(flatten)]
    pub knob: Knob,
}

/// A machine compared with a profile.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The profile's name.
    pub profile: String,
    /// The machine.
    pub machine: Machine,
    /// Whether everything that `apply` sets is set.
    pub holds: bool,
    /// Every knob.
    pub rows: Vec<Row>,
}

/// Compares `machine` with `profile`.
#[must_use]
pub fn check(system: &dyn System, machine: &Machine, profile: &Profile) -> Report {
    let mut rows = Vec::new();
    for knob in &profile.knobs {
        let mut places = targets(system, machine, knob);
        if places.is_empty() {
            places.push(Target { place: String::new(), path: None, now: None });
        }
        let settable = !knob.kind.is_of_unit() || has_systemd(system);
        rows.extend(places.into_iter().map(|target| row(knob, target, settable)));
    }
    let holds = rows.iter().all(|row| row.state != State::Differs);
    Report { profile: profile.name.clone(), machine: machine.clone(), holds, rows }
}

/// One row; without systemd a limit is for whoever starts walhub, not `settable`.
fn row(knob: &Knob, target: Target, settable: bool) -> Row {
    let applied = knob.kind.is_applied();
    let state = match &target.now {
        None if applied => State::Missing,
        None => State::Advice,
        Some(_) if knob.kind == Kind::Advice => State::Advice,
        Some(_) if knob.rule == Rule::Report => State::Info,
        Some(now) if knob.holds(now) => State::Ok,
        Some(_) if applied && settable => State::Differs,
        Some(_) => State::Advice,
    };
    let wanted = match &target.now {
        Some(now) => knob.target(now),
        None => knob.value.clone(),
    };
    Row { state, place: target.place, now: target.now, wanted, knob: knob.clone() }
}
