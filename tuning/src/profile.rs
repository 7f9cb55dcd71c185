//! A profile: knobs with their values, reasons and evidence, read from TOML.
//!
//! Not here: where a knob lies on this machine (`target`), whether it holds (`check`).

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a knob is, which says where it lies and how it is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file below /proc/sys; kept in sysctl.d.
    Sysctl,
    /// An attribute of the data directory's disks in /sys/block/DISK/queue; kept as a udev rule.
    Block,
    /// An attribute of each CPU frequency policy; kept in tmpfiles.d.
    Cpu,
    /// A parameter of a kernel module, `module.parameter` as on the kernel's command line; kept in
    /// tmpfiles.d.
    Module,
    /// A resource limit of the service; kept as a drop-in of the systemd unit.
    Limit,
    /// A directive of the service for its cgroup, such as IOWeight; kept as a limit is.
    Service,
    /// A setting of a network card as ethtool shows it. Never changed: it may reset the link.
    Nic,
    /// An option of the data directory's mount. Never changed.
    Mount,
    /// Something only an administrator can decide.
    Advice,
}

impl Kind {
    /// Whether `apply` sets knobs of this kind.
    #[must_use]
    pub const fn is_applied(self) -> bool {
        match self {
            Self::Sysctl | Self::Block | Self::Cpu | Self::Module | Self::Limit | Self::Service => {
                true
            }
            Self::Nic | Self::Mount | Self::Advice => false,
        }
    }

    /// Whether it is part of the service's unit, and not of the machine.
    #[must_use]
    pub const fn is_of_unit(self) -> bool {
        matches!(self, Self::Limit | Self::Service)
    }
}

/// When a value is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// It is the value wanted.
    Equals,
    /// Each of its numbers is no less; what is more is left as it is.
    AtLeast,
    /// Each of its numbers is no more; what is less is left as it is.
    AtMost,
    /// Always: it is shown, and never changed.
    Report,
}

impl Rule {
    /// The value to set where `now` is set: `now` itself when it is right.
    #[must_use]
    pub fn target(self, now: &str, wanted: &str) -> String {
        let choose: fn(u64, u64) -> u64 = match self {
            Self::Equals => return wanted.to_owned(),
            Self::Report => return now.to_owned(),
            Self::AtLeast => u64::max,
            Self::AtMost => u64::min,
        };
        let nows: Vec<_> = now.split_whitespace().collect();
        let wanteds: Vec<_> = wanted.split_whitespace().collect();
        if nows.len() != wanteds.len() {
            return wanted.to_owned();
        }
        let better = |(now, wanted): (&&str, &&str)| {
            let (now_number, wanted_number) = (number(now)?, number(wanted)?);
            let keeps = choose(now_number, wanted_number) == now_number;
            Some(if keeps { *now } else { *wanted }.to_owned())
        };
        let chosen: Option<Vec<_>> = nows.iter().zip(&wanteds).map(better).collect();
        // What is no number cannot be compared.
        chosen.map_or_else(|| wanted.to_owned(), |chosen| chosen.join(" "))
    }
}

/// A number, or a word for the largest.
fn number(text: &str) -> Option<u64> {
    match text {
        "infinity" | "unlimited" => Some(u64::MAX),
        _ => text.parse().ok(),
    }
}

/// One knob of a profile.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Knob {
    /// Its name, as the kernel or systemd calls it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// When a value is right.
    pub rule: Rule,
    /// The value wanted; for advice, what to do.
    pub value: String,
    /// Why walhub wants it.
    pub why: String,
    /// The document that says what it does, or what was measured.
    pub evidence: String,
    /// What else it touches.
    pub scope: String,
    /// How to undo it without `walhub tune undo`.
    pub undo: String,
    /// The knob that becomes 0 when this one is set, as vm.dirty_ratio does for vm.dirty_bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zeroes: Option<String>,
    /// The scenario of walhub-bench that shows its effect on your own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
    /// Of advice: the file that shows how it is now. `IF` stands for each network card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shows: Option<String>,
}

impl Knob {
    /// The value to set where `now` is set: `now` itself when it is right.
    #[must_use]
    pub fn target(&self, now: &str) -> String {
        // 0 says that the other knob of the pair is in charge.
        if self.zeroes.is_some() && now == "0" {
            return self.value.clone();
        }
        self.rule.target(now, &self.value)
    }

    /// Whether `now` is right.
    #[must_use]
    pub fn holds(&self, now: &str) -> bool {
        self.target(now) == now
    }
}

/// A profile as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    name: String,
    summary: String,
    /// The profile whose knobs this one begins with.
    extends: Option<String>,
    /// Names of its knobs that are left out here.
    #[serde(default)]
    without: Vec<String>,
    #[serde(default)]
    knob: Vec<Knob>,
}

/// A kind of machine, and what walhub wants of it.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What machine it is for.
    pub summary: String,
    /// What it sets, in the order of its file.
    pub knobs: Vec<Knob>,
}

/// A profile that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProfileError {
    /// There is no profile of this name.
    Unknown(String),
    /// The file of this profile is not what a profile is.
    Malformed(String, String),
    /// This profile names a knob in `without` that it does not have.
    NothingToLeaveOut(String, String),
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "there is no profile \"{name}\": one of {}", PROFILE_NAMES.join(", "))
            }
            Self::Malformed(name, reason) => write!(f, "profile \"{name}\": {reason}"),
            Self::NothingToLeaveOut(name, knob) => {
                write!(f, "profile \"{name}\" leaves out \"{knob}\", which it does not have")
            }
        }
    }
}

impl Error for ProfileError {}

/// Every profile, as (name, file).
const FILES: [(&str, &str); 5] = [
    ("bare-metal-nvme", include_str!("../profiles/bare-metal-nvme.toml")),
    ("bare-metal-sata", include_str!("../profiles/bare-metal-sata.toml")),
    ("cloud-vm", include_str!("../profiles/cloud-vm.toml")),
    ("container", include_str!("../profiles/container.toml")),
    ("laptop", include_str!("../profiles/laptop.toml")),
];

/// The names of all profiles.
pub const PROFILE_NAMES: [&str; 5] = [FILES[0].0, FILES[1].0, FILES[2].0, FILES[3].0, FILES[4].0];

impl Profile {
    /// The profile of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self, ProfileError> {
        let file = FILES.iter().find(|(known, _)| *known == name);
        let (_, text) = file.ok_or_else(|| ProfileError::Unknown(name.to_owned()))?;
        let file: ProfileFile = toml::from_str(text)
            .map_err(|error| ProfileError::Malformed(name.to_owned(), error.to_string()))?;
        let mut knobs = match &file.extends {
            Some(base) => Self::named(base)?.knobs,
            None => Vec::new(),
        };
        for left_out in &file.without {
            let before = knobs.len();
            knobs.retain(|knob| knob.name != *left_out);
            if knobs.len() == before {
                return Err(ProfileError::NothingToLeaveOut(file.name, left_out.clone()));
            }
        }
        for knob in file.knob {
            let is_same = |known: &&mut Knob| known.name == knob.name && known.kind == knob.kind;
            match knobs.iter_mut().find(is_same) {
                Some(known) => *known = knob,
                None => knobs.push(knob),
            }
        }
        Ok(Self { name: file.name, summary: file.summary, knobs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scenarios of walhub-bench.
    const SCENARIOS: [&str; 11] = [
        "disk",
        "ingest",
        "fanout-live",
        "catchup",
        "isolation",
        "sync",
        "commit",
        "acks",
        "connections",
        "send-path",
        "recovery",
    ];

    #[test]
    fn every_profile_parses_and_every_knob_has_all_fields() {
        for name in PROFILE_NAMES {
            let profile = Profile::named(name).unwrap();
            assert_eq!(profile.name, name);
            assert!(!profile.summary.is_empty() && profile.knobs.len() > 5, "{name}");
            for knob in &profile.knobs {
                for (field, text) in [
                    ("name", &knob.name),
                    ("value", &knob.value),
                    ("why", &knob.why),
                    ("evidence", &knob.evidence),
                    ("scope", &knob.scope),
                    ("undo", &knob.undo),
                ] {
                    assert!(!text.trim().is_empty(), "{name}: {} has no {field}", knob.name);
                    assert!(text.is_ascii() && !text.contains('\n'), "{name}: {}", knob.name);
                }
                assert!(knob.why.len() > 40, "{name}: {}: a reason is a sentence", knob.name);
                assert!(knob.shows.is_none() || knob.kind == Kind::Advice, "{name}: {}", knob.name);
                if let Some(scenario) = &knob.measure {
                    assert!(SCENARIOS.contains(&scenario.as_str()), "{name}: {scenario}");
                }
            }
        }
    }

    #[test]
    fn no_knob_is_named_twice() {
        for name in PROFILE_NAMES {
            let knobs = Profile::named(name).unwrap().knobs;
            let mut names: Vec<_> = knobs.iter().map(|knob| (knob.kind, &knob.name)).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), knobs.len(), "{name}");
        }
    }

    #[test]
    fn the_write_cache_is_never_changed() {
        for name in PROFILE_NAMES {
            for knob in Profile::named(name).unwrap().knobs {
                if knob.name == "write_cache" {
                    assert_eq!(knob.rule, Rule::Report);
                }
            }
        }
    }

    #[test]
    fn an_unknown_profile_names_the_known_ones() {
        let error = Profile::named("mainframe").unwrap_err().to_string();
        assert!(error.contains("\"mainframe\"") && error.contains("cloud-vm"), "{error}");
    }

    #[test]
    fn rules_keep_what_is_better() {
        for (rule, now, wanted, target) in [
            (Rule::Equals, "mq-deadline", "none", "none"),
            (Rule::Equals, "none", "none", "none"),
            (Rule::AtLeast, "5", "4", "5"),
            (Rule::AtLeast, "3", "4", "4"),
            (Rule::AtLeast, "4096 131072 33554432", "4096 65536 16777216", "4096 131072 33554432"),
            (Rule::AtLeast, "4096 16384 4194304", "4096 65536 16777216", "4096 65536 16777216"),
            (Rule::AtLeast, "4096 131072 4194304", "4096 65536 16777216", "4096 131072 16777216"),
            (Rule::AtLeast, "infinity", "65536", "infinity"),
            (Rule::AtLeast, "65536", "infinity", "infinity"),
            (Rule::AtLeast, "1 2", "3", "3"),
            (Rule::AtLeast, "junk", "3", "3"),
            (Rule::AtMost, "60", "10", "10"),
            (Rule::AtMost, "1", "10", "1"),
            (Rule::Report, "write back", "write through", "write back"),
        ] {
            assert_eq!(rule.target(now, wanted), target, "{rule:?} {now} {wanted}");
        }
    }
}
