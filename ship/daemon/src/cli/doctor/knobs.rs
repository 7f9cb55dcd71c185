//! What the doctor says about the CPU, and about what the machine's profile would have otherwise.

use walhub_tuning::target::{CPU_POLICIES, module_path};
use walhub_tuning::{Kind, Machine, Profile, Row, State, System};

use super::{Finding, Level, read};

/// Clock sources that are read without a system call.
const FAST_CLOCKS: [&str; 5] =
    ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource"];
/// Where idle states are; all CPUs have the same.
const IDLE_STATES: &str = "/sys/devices/system/cpu/cpu0/cpuidle";
/// An idle state that takes longer to leave costs a lone commit more than a loopback round trip.
const LEAVING_IDLE_US_MAX: u64 = 100;

pub(super) fn clock(system: &dyn System) -> Option<Finding> {
    let directory = "/sys/devices/system/clocksource/clocksource0";
    let now = read(system, &format!("{directory}/current_clocksource"));
    if now.is_empty() {
        return None;
    }
    if FAST_CLOCKS.contains(&now.as_str()) {
        return Some(Finding::ok("clock", now));
    }
    let available = read(system, &format!("{directory}/available_clocksource"));
    let fast = available.split_whitespace().find(|clock| FAST_CLOCKS.contains(clock));
    let mend = match fast {
        Some(fast) => format!("echo {fast} > {directory}/current_clocksource"),
        None => "none here: the CPU or the host offers no other clock".to_owned(),
    };
    let costs = "reading the time is a system call: a microsecond at each turn of a core loop";
    Some(Finding::bad(Level::Warning, "clock", now, costs, &mend))
}

pub(super) fn cpu_frequency(system: &dyn System) -> Finding {
    let check = "CPU frequency";
    let policies = system.list(CPU_POLICIES).into_iter();
    let mut governors: Vec<_> = policies
        .map(|policy| read(system, &format!("{CPU_POLICIES}/{policy}/scaling_governor")))
        .filter(|governor| !governor.is_empty())
        .collect();
    governors.sort();
    governors.dedup();
    if governors.is_empty() {
        return Finding::ok(check, "fixed, or the host's to decide");
    }
    let found = format!("governor {}", governors.join(", "));
    if governors == ["performance"] {
        return Finding::ok(check, found);
    }
    let costs = "a lone commit begins at a low clock rate, which is raised after it is done";
    let mend = "cpupower frequency-set -g performance, or walhub tune apply on a server";
    Finding::bad(Level::Advice, check, found, costs, mend)
}

pub(super) fn idle_states(system: &dyn System, machine: &Machine) -> Option<Finding> {
    let check = "CPU idle states";
    let value = |state: &str, file: &str| read(system, &format!("{IDLE_STATES}/{state}/{file}"));
    let states = system.list(IDLE_STATES).into_iter();
    let enabled = states.filter(|state| value(state, "disable") != "1");
    let latency =
        |state: String| Some((value(&state, "latency").parse().ok()?, value(&state, "name")));
    let (latency_us, name): (u64, String) = enabled.filter_map(latency).max()?;
    let found = format!("{name} takes {latency_us} us to leave");
    // On battery they are worth more than a commit.
    if latency_us <= LEAVING_IDLE_US_MAX || machine.profile == "laptop" {
        return Some(Finding::ok(check, found));
    }
    let costs = "a core that waits for a flush or a reply wakes that much later, at each commit";
    let mend = "cpupower idle-set -D 20";
    Some(Finding::bad(Level::Advice, check, found, costs, mend))
}

/// What the machine's profile would have otherwise, in groups that each end in a count.
pub(super) fn compared(system: &dyn System, machine: &Machine) -> Vec<Finding> {
    let Ok(profile) = Profile::named(machine.profile) else { return Vec::new() };
    let report = walhub_tuning::check(system, machine, &profile);
    let is_tcp = |row: &Row| row.knob.kind == Kind::Sysctl && row.knob.name.starts_with("net.");
    let is_nic = |row: &Row| row.knob.kind == Kind::Nic;
    // Limits and CPU have findings of their own; advice is for whoever reads the table.
    let is_other = |row: &Row| match row.knob.kind {
        Kind::Sysctl => !is_tcp(row),
        Kind::Block | Kind::Module | Kind::Mount | Kind::Service => true,
        Kind::Cpu | Kind::Limit | Kind::Nic | Kind::Advice => false,
    };
    let mut findings =
        group("TCP settings", &profile, report.rows.iter().filter(|row| is_tcp(row)));
    if profile.knobs.iter().any(|knob| knob.kind == Kind::Nic) {
        let seen = report.rows.iter().any(|row| is_nic(row) && row.now.is_some());
        findings.extend(match (machine.interfaces.is_empty(), seen) {
            (true, _) => vec![Finding::ok("network card", "none")],
            (false, true) => {
                group("network card", &profile, report.rows.iter().filter(|row| is_nic(row)))
            }
            (false, false) => vec![unseen_cards(machine)],
        });
    }
    findings.extend(group(
        "kernel settings",
        &profile,
        report.rows.iter().filter(|row| is_other(row)),
    ));
    findings
}

fn unseen_cards(machine: &Machine) -> Finding {
    Finding::bad(
        Level::Advice,
        "network card",
        format!("{}: ethtool is missing, or says nothing", machine.interfaces.join(", ")),
        "an offload that is off costs CPU for each standby, and nobody notices",
        "apt-get install ethtool",
    )
}

fn group<'a>(check: &str, profile: &Profile, rows: impl Iterator<Item = &'a Row>) -> Vec<Finding> {
    let is_compared = |row: &&Row| row.now.is_some() && row.state != State::Info;
    let rows: Vec<_> = rows.filter(is_compared).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = Vec::new();
    for row in rows.iter().filter(|row| row.state != State::Ok) {
        let finding = advice(row);
        // Every disk and card may say the same.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    let right = rows.iter().filter(|row| row.state == State::Ok).count();
    let found = format!("{right} of {} as profile {} has them", rows.len(), profile.name);
    findings.push(Finding::ok(check, format!("{found}; walhub tune check lists all")));
    findings
}

fn advice(row: &Row) -> Finding {
    let now = row.now.as_deref().unwrap_or("-");
    let (name, wanted, place) = (&row.knob.name, &row.wanted, &row.place);
    let mend = match row.knob.kind {
        Kind::Sysctl => format!("sysctl -w {name}=\"{wanted}\", or walhub tune apply"),
        Kind::Block => {
            format!("echo {wanted} > /sys/block/{place}/queue/{name}, or walhub tune apply")
        }
        Kind::Module => {
            format!("echo {wanted} > {}, or walhub tune apply", module_path(name))
        }
        Kind::Cpu => format!("cpupower frequency-set -g {wanted}, or walhub tune apply"),
        Kind::Nic if name.ends_with("-ring") => {
            format!("ethtool -G {place}, maximum of ethtool -g")
        }
        Kind::Nic if name.ends_with("-usecs") => {
            format!("ethtool -C {place} adaptive-rx off {name} {wanted}")
        }
        Kind::Nic => format!("ethtool -K {place} {name} {wanted}"),
        Kind::Mount => {
            format!("change the options of {place} in /etc/fstab, then mount -o remount {place}")
        }
        Kind::Service => format!("{name}={wanted} in the unit, or walhub tune apply"),
        Kind::Limit | Kind::Advice => "walhub tune check".to_owned(),
    };
    let found = format!("{now}, wanted {wanted}");
    Finding::bad(Level::Advice, name, found, &row.knob.why, &mend)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::super::text;
    use super::*;

    #[test]
    fn a_slow_clock_is_mended_by_a_fast_one_if_there_is_one() {
        let directory = "/sys/devices/system/clocksource/clocksource0";
        let current = format!("{directory}/current_clocksource");
        let available = format!("{directory}/available_clocksource");
        let (_root, hpet) = tree(&[(&current, "hpet\n"), (&available, "tsc hpet acpi_pm\n")]);
        let finding = clock(&hpet).unwrap();
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.mend.unwrap(), format!("echo tsc > {current}"));
        let (_root, tsc) = tree(&[(&current, "tsc\n")]);
        assert_eq!(clock(&tsc).unwrap().level, Level::Ok);
        let (_root, none) = tree(&[]);
        assert_eq!(clock(&none), None);
    }

    #[test]
    fn what_differs_from_the_profile_is_advice_with_a_command() {
        let (_root, tree) = tree(&[("/proc/sys/vm/swappiness", "60\n")]);
        let machine = Machine::recognise(&tree, "/data");
        let findings = compared(&tree, &machine);
        let finding = findings.iter().find(|finding| finding.check == "vm.swappiness").unwrap();
        assert_eq!(finding.level, Level::Advice);
        assert!(finding.mend.as_ref().unwrap().starts_with("sysctl -w vm.swappiness=\"10\""));
        assert!(text(&machine, &findings).ends_with("walhub runs well here; advice: 1\n"));
    }

    #[test]
    fn governors_and_idle_states_are_judged() {
        let policy = |number| format!("{CPU_POLICIES}/policy{number}/scaling_governor");
        let (_root, fast) = tree(&[(&policy(0), "performance\n"), (&policy(1), "performance\n")]);
        assert_eq!(cpu_frequency(&fast).level, Level::Ok);
        let (_root, mixed) = tree(&[(&policy(0), "performance\n"), (&policy(1), "powersave\n")]);
        let finding = cpu_frequency(&mixed);
        assert_eq!(
            (finding.level, &*finding.found),
            (Level::Advice, "governor performance, powersave")
        );
        let (_root, none) = tree(&[]);
        assert_eq!(cpu_frequency(&none).level, Level::Ok);
        for (disable, level) in [("0\n", Level::Advice), ("1\n", Level::Ok)] {
            let state = |number: u8, file| format!("{IDLE_STATES}/state{number}/{file}");
            let (_root, tree) = tree(&[
                (&state(1, "name"), "C1\n"),
                (&state(1, "latency"), "2\n"),
                (&state(2, "name"), "C6\n"),
                (&state(2, "latency"), "133\n"),
                (&state(2, "disable"), disable),
            ]);
            let machine = Machine::recognise(&tree, "/data");
            assert_eq!(idle_states(&tree, &machine).unwrap().level, level);
        }
    }

    #[test]
    fn a_card_that_cannot_be_seen_is_named() {
        let (_root, tree) = tree(&[("/sys/class/net/eth0/device/vendor", "")]);
        let machine = Machine::recognise(&tree, "/data");
        let findings = compared(&tree, &machine);
        let card = findings.iter().find(|finding| finding.check == "network card").unwrap();
        assert_eq!(card.level, Level::Advice);
        assert!(card.found.starts_with("eth0: ethtool is missing"), "{card:?}");
    }
}
