//! The resource limits and the cgroup settings that a walhub service gets.
//!
//! What systemd gives is in unit files, of which the last assignment wins; without a unit file it is
//! what this process has, which is what a container or a shell gives.

use crate::profile::{Kind, Knob};
use crate::system::System;

/// Drop-ins of every instance of the unit.
pub const DROP_IN_DIRECTORY: &str = "/etc/systemd/system/walhub@.service.d";
/// The drop-in that `apply` writes.
pub const DROP_IN: &str = "/etc/systemd/system/walhub@.service.d/90-tune.conf";
/// Where the unit may be, first wins.
const UNITS: [&str; 3] = [
    "/etc/systemd/system/walhub@.service",
    "/usr/lib/systemd/system/walhub@.service",
    "/lib/systemd/system/walhub@.service",
];
/// What a directive is that no file assigns.
const UNSET: &str = "unset";
const VENDOR_DROP_INS: &str = "/usr/lib/systemd/system/walhub@.service.d";

/// The name of a limit in a unit file and in /proc/PID/limits.
fn names(limit: &str) -> Option<(&'static str, &'static str)> {
    match limit {
        "memlock" => Some(("LimitMEMLOCK", "Max locked memory")),
        "fsize" => Some(("LimitFSIZE", "Max file size")),
        "nproc" => Some(("LimitNPROC", "Max processes")),
        "nofile" => Some(("LimitNOFILE", "Max open files")),
        _ => None,
    }
}

/// The directive of a unit file for a limit; other settings have the directive's name.
#[must_use]
pub fn directive(name: &str) -> &str {
    names(name).map_or(name, |(directive, _)| directive)
}

/// The value of a knob that belongs to the unit, with or without walhub's own drop-in.
#[must_use]
pub fn now(system: &dyn System, knob: &Knob, with_own: bool) -> Option<String> {
    if knob.kind == Kind::Limit {
        return of_service(system, &knob.name, with_own);
    }
    // Only systemd reads the directive.
    let set = has_systemd(system).then(|| of_unit(system, &knob.name, with_own))?;
    Some(set.unwrap_or_else(|| UNSET.to_owned()))
}

/// Whether systemd runs services here: sd_booted(3), or in a tree that is not running, its files.
#[must_use]
pub fn has_systemd(system: &dyn System) -> bool {
    system.exists(if system.is_live() { "/run/systemd/system" } else { "/etc/systemd/system" })
}

/// The soft limit that the service has, or would have without walhub's own drop-in.
#[must_use]
pub fn of_service(system: &dyn System, limit: &str, with_own: bool) -> Option<String> {
    let (directive, row) = names(limit)?;
    of_unit(system, directive, with_own).or_else(|| of_process(system, row))
}

/// The soft limit of this process, from /proc/self/limits.
fn of_process(system: &dyn System, row: &str) -> Option<String> {
    let limits = system.read("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(row))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn of_unit(system: &dyn System, directive: &str, with_own: bool) -> Option<String> {
    let unit = UNITS.iter().find(|path| system.exists(path)).map(|path| (*path).to_owned());
    let mut drop_ins = Vec::new();
    for directory in [VENDOR_DROP_INS, DROP_IN_DIRECTORY] {
        for name in system.list(directory) {
            if name.ends_with(".conf") {
                drop_ins.push((name.clone(), format!("{directory}/{name}")));
            }
        }
    }
    // systemd reads them in the order of their names, wherever they are.
    drop_ins.sort();
    let drop_ins = drop_ins.into_iter().map(|(_, path)| path);
    let files = unit.into_iter().chain(drop_ins.filter(|path| with_own || path != DROP_IN));
    let assigned = |path: String| {
        let text = system.read(&path).ok()?;
        let mut values = text.lines().filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == directive).then(|| bytes(value.trim()))
        });
        values.next_back()
    };
    files.filter_map(assigned).last()
}

/// The soft limit of `SOFT:HARD`, its suffix spelt out (systemd.exec(5): K, M, G, T by 1024).
fn bytes(value: &str) -> String {
    let soft = value.split(':').next().unwrap_or(value);
    let shift = match soft.chars().last() {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => return soft.to_owned(),
    };
    let number = soft[..soft.len() - 1].parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .map_or_else(|| soft.to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    const PROCESS: (&str, &str) = (
        "/proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1024                 524288               files\n\
         Max locked memory         8388608              8388608              bytes\n",
    );
    const UNIT: (&str, &str) = (
        "/usr/lib/systemd/system/walhub@.service",
        "[Service]\nLimitNOFILE=4096\nLimitMEMLOCK=64M\n",
    );

    #[test]
    fn without_a_unit_it_is_the_process_limit() {
        let scratch = Scratch::new(&[PROCESS]);
        assert_eq!(of_service(&scratch.tree, "nofile", true).unwrap(), "1024");
        assert_eq!(of_service(&scratch.tree, "memlock", true).unwrap(), "8388608");
        assert_eq!(of_service(&scratch.tree, "cpu", true), None);
    }

    #[test]
    fn the_last_drop_in_wins() {
        let own = (DROP_IN, "[Service]\nLimitNOFILE=1000000\n");
        let other = ("/etc/systemd/system/walhub@.service.d/10.conf", "LimitNOFILE = 8192:9000\n");
        let scratch = Scratch::new(&[PROCESS, UNIT, other, own]);
        assert_eq!(of_service(&scratch.tree, "nofile", true).unwrap(), "1000000");
        assert_eq!(of_service(&scratch.tree, "nofile", false).unwrap(), "8192");
        assert_eq!(of_service(&scratch.tree, "memlock", true).unwrap(), "67108864");
    }
}
