//! The files that keep a profile over a reboot.
//!
//! Each belongs to walhub alone and says so in its first line; a file of the same name without that
//! line is somebody else's, and is never touched.

use std::fmt::Write as _;

use crate::limits;
use crate::profile::{Kind, Knob, Rule};
use crate::system::{System, parent_of};
use crate::target::{CPU_POLICIES, module_path};

/// The first line of every file written.
pub const MARK: &str = "# Written by \"walhub tune apply\"; \"walhub tune undo\" removes it.";
/// sysctl.d(5).
pub const SYSCTL_CONF: &str = "/etc/sysctl.d/90-walhub.conf";
/// udev(7).
pub const UDEV_RULES: &str = "/etc/udev/rules.d/90-walhub.rules";
/// tmpfiles.d(5): the one that can write to every CPU's frequency policy and to modules' parameters at
/// boot.
pub const TMPFILES_CONF: &str = "/etc/tmpfiles.d/90-walhub.conf";

/// tuned.conf(5), of the administrator. tuned 2.23 moved them into a directory of their own.
const TUNED_CONFS: [&str; 2] =
    ["/etc/tuned/profiles/walhub/tuned.conf", "/etc/tuned/walhub/tuned.conf"];
/// Every file that an apply may write.
pub const FILES: [&str; 6] =
    [SYSCTL_CONF, UDEV_RULES, TMPFILES_CONF, limits::DROP_IN, TUNED_CONFS[0], TUNED_CONFS[1]];

/// A knob with the value it is set to at one place.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The knob.
    pub knob: Knob,
    /// The disk or CPU policy.
    pub place: String,
    /// The value.
    pub value: String,
}

/// A file and what it has to contain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileToWrite {
    /// Where.
    pub path: String,
    /// What.
    pub content: String,
}

/// Where tuned looks for profiles of the administrator; `None` without tuned.
#[must_use]
pub fn tuned_conf(system: &dyn System) -> Option<&'static str> {
    let exists = |path: &&str| system.exists(parent_of(parent_of(path)));
    TUNED_CONFS.into_iter().find(exists)
}

/// Every file that `settings` need.
#[must_use]
pub fn files(system: &dyn System, profile: &str, settings: &[Setting]) -> Vec<FileToWrite> {
    let of = |kind: Kind| settings.iter().filter(move |setting| setting.knob.kind == kind);
    let mut files = Vec::new();
    let mut add = |path: String, body: String| {
        if !body.is_empty() {
            let content = format!("{MARK}\n# Profile: {profile}.\n{body}");
            files.push(FileToWrite { path, content });
        }
    };
    let lines = of(Kind::Sysctl)
        .map(|set| format!("\n# {}\n{} = {}\n", set.knob.why, set.knob.name, set.value));
    add(SYSCTL_CONF.to_owned(), lines.collect());
    let lines = of(Kind::Block).map(|set| {
        format!(
            "\n# {}\nACTION==\"add|change\", SUBSYSTEM==\"block\", ENV{{DEVTYPE}}==\"disk\", {}, ATTR{{queue/{}}}=\"{}\"\n",
            set.knob.why,
            disk_match(system, &set.place),
            set.knob.name,
            set.value
        )
    });
    add(UDEV_RULES.to_owned(), lines.collect());
    let of_boot = settings.iter().filter(|set| matches!(set.knob.kind, Kind::Cpu | Kind::Module));
    add(TMPFILES_CONF.to_owned(), tmpfiles(&of_boot.collect::<Vec<_>>()));
    let of_unit = settings.iter().filter(|set| set.knob.kind.is_of_unit());
    add(limits::DROP_IN.to_owned(), drop_in(&of_unit.collect::<Vec<_>>()));
    if let Some(path) = tuned_conf(system) {
        let kept = settings.iter().filter(|set| !set.knob.kind.is_of_unit());
        add(path.to_owned(), tuned(profile, &kept.collect::<Vec<_>>()));
    }
    files
}

/// Matches a disk by what it keeps over a reboot, or by its name when it has no such thing.
fn disk_match(system: &dyn System, disk: &str) -> String {
    for (key, attribute) in [("ATTR", "wwid"), ("ATTRS", "device/wwid")] {
        let Ok(text) = system.read(&format!("/sys/block/{disk}/{attribute}")) else { continue };
        let text = text.trim_end_matches('\n');
        // udev takes these for a pattern, and compares without trailing white space.
        let is_plain = !text.is_empty()
            && text.is_ascii()
            && !text.contains(['*', '?', '[', ']', '|', '"', '\\', '\n'])
            && text.trim() == text;
        if is_plain {
            return format!("{key}{{wwid}}==\"{text}\"");
        }
    }
    format!("KERNEL==\"{disk}\"")
}

/// One line for every knob, a module's parameter or an attribute that all policies get alike.
fn tmpfiles(settings: &[&Setting]) -> String {
    let mut text = String::new();
    for (index, set) in settings.iter().enumerate() {
        if settings[..index].iter().any(|before| before.knob.name == set.knob.name) {
            continue;
        }
        let name = &set.knob.name;
        let path = match set.knob.kind {
            Kind::Module => module_path(name),
            _ => format!("{CPU_POLICIES}/policy*/{name}"),
        };
        let _ = writeln!(text, "\n# {}", set.knob.why);
        let _ = writeln!(text, "w {path} - - - - {}", set.value);
    }
    text
}

fn drop_in(settings: &[&Setting]) -> String {
    let mut text = String::new();
    for set in settings {
        if text.is_empty() {
            text.push_str("\n[Service]\n");
        }
        let directive = limits::directive(&set.knob.name);
        let _ = writeln!(text, "# {}\n{directive}={}", set.knob.why, set.value);
    }
    text
}

/// tuned.conf(5), with the plugins sysctl, cpu and sysfs.
fn tuned(profile: &str, settings: &[&Setting]) -> String {
    let mut text = String::new();
    if settings.is_empty() {
        return text;
    }
    let _ = write!(text, "\n[main]\nsummary=walhub, {profile}\n");
    let sections: [(&str, &[Kind]); 3] = [
        ("sysctl", &[Kind::Sysctl]),
        ("cpu", &[Kind::Cpu]),
        ("sysfs", &[Kind::Block, Kind::Module]),
    ];
    for (section, kinds) in sections {
        let mut lines: Vec<String> = Vec::new();
        for set in settings.iter().filter(|set| kinds.contains(&set.knob.kind)) {
            let line = match set.knob.kind {
                Kind::Cpu if set.knob.name == "scaling_governor" => {
                    format!("governor={}", set.value)
                }
                Kind::Block => {
                    format!("/sys/block/{}/queue/{}={}", set.place, set.knob.name, set.value)
                }
                Kind::Module => format!("{}={}", module_path(&set.knob.name), set.value),
                _ => format!("{}={}", set.knob.name, set.value),
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        if !lines.is_empty() {
            let _ = write!(text, "\n[{section}]\n{}\n", lines.join("\n"));
        }
    }
    text
}

/// A tuned profile without places: for a package, which does not know the machine.
#[must_use]
pub fn packaged_tuned(profile: &str, knobs: &[Knob]) -> String {
    let settings: Vec<_> = knobs
        .iter()
        .filter(|knob| matches!(knob.kind, Kind::Sysctl | Kind::Cpu))
        .filter_map(|knob| Some((knob, packaged_value(knob)?)))
        .map(|(knob, value)| Setting { knob: knob.clone(), place: String::new(), value })
        .collect();
    let body = tuned(profile, &settings.iter().collect::<Vec<_>>());
    format!(
        "# Profile {profile} of walhub, without what depends on the disk, and without tcp_rmem and\n\
         # tcp_wmem: tuned cannot tell which of two triples is larger. \"walhub tune apply\" can.\n{body}"
    )
}

/// A value with tuned's modifiers: `>` and `<` leave alone what is larger or less already.
fn packaged_value(knob: &Knob) -> Option<String> {
    let value = &knob.value;
    match knob.rule {
        Rule::Report => None,
        Rule::Equals => Some(value.clone()),
        // The 0 of a pair says that the other one is in charge, and is no less.
        Rule::AtMost if knob.zeroes.is_some() => Some(value.clone()),
        Rule::AtLeast | Rule::AtMost if value.contains(' ') => None,
        Rule::AtLeast => Some(format!(">{value}")),
        Rule::AtMost => Some(format!("<{value}")),
    }
}
