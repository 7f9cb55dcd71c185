use super::*;
use crate::check::{State, check};
use crate::persist::{SYSCTL_CONF, UDEV_RULES};
use crate::scratch::{Kernel, Scratch};
use crate::undo::undo;

const DROP_IN: &str = limits::DROP_IN;

/// A server with one NVMe drive, systemd and tuned.
fn server() -> Scratch {
    Scratch::new(&[
        ("/proc/self/mountinfo", "22 1 259:2 / / rw,noatime - ext4 /dev/nvme0n1p2 rw\n"),
        ("/proc/self/limits", "Max open files            1024     524288   files\n"),
        ("/sys/dev/block/259:2/uevent", "DEVNAME=nvme0n1p2\n"),
        ("/sys/block/nvme0n1/nvme0n1p2/partition", "2\n"),
        ("/sys/block/nvme0n1/wwid", "eui.0025388b01234567\n"),
        ("/sys/block/nvme0n1/queue/scheduler", "mq-deadline\n"),
        ("/sys/block/nvme0n1/queue/wbt_lat_usec", "75000\n"),
        ("/sys/block/nvme0n1/queue/write_cache", "write back\n"),
        ("/sys/block/nvme0n1/queue/read_ahead_kb", "4096\n"),
        ("/sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n"),
        ("/sys/devices/system/cpu/cpufreq/policy1/scaling_governor", "powersave\n"),
        ("/proc/sys/vm/dirty_bytes", "0\n"),
        ("/proc/sys/vm/dirty_ratio", "20\n"),
        ("/proc/sys/vm/dirty_background_bytes", "1048576\n"),
        ("/proc/sys/vm/dirty_background_ratio", "0\n"),
        ("/proc/sys/vm/swappiness", "60\n"),
        ("/proc/sys/kernel/io_uring_disabled", "2\n"),
        ("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 4194304\n"),
        ("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 33554432\n"),
        ("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n"),
        ("/etc/sysctl.d/10-mine.conf", "vm.swappiness = 60\n"),
        ("/etc/udev/udev.conf", ""),
        ("/etc/systemd/system/other.service", ""),
        ("/etc/tuned/active_profile", "balanced\n"),
        ("/var/lib/dpkg/status", ""),
    ])
}

fn profile() -> Profile {
    Profile::named("bare-metal-nvme").unwrap()
}

fn machine(scratch: &Scratch) -> Machine {
    Machine::recognise(&scratch.tree, "/var/lib/walhub")
}

fn holds(scratch: &Scratch) -> bool {
    check(&scratch.tree, &machine(scratch), &profile()).holds
}

/// Applies everything, with as many changes as it takes.
fn apply_all(scratch: &Scratch) -> Outcome {
    apply(&Kernel::new(&scratch.tree, usize::MAX), &machine(scratch), &profile(), false).unwrap()
}

fn undo_all(scratch: &Scratch) -> Outcome {
    undo(&Kernel::new(&scratch.tree, usize::MAX), false).unwrap()
}

#[test]
fn apply_makes_the_check_hold_and_undo_restores_everything() {
    let scratch = server();
    let before = scratch.snapshot();
    assert!(!holds(&scratch));
    let outcome = apply_all(&scratch);
    assert!(outcome.is_complete() && holds(&scratch), "{outcome:?}");
    let sysctls = scratch.tree.read(SYSCTL_CONF).unwrap();
    assert!(sysctls.contains("\nnet.ipv4.tcp_wmem = 4096 16384 16777216\n"), "{sysctls}");
    assert!(!sysctls.contains("tcp_rmem ="), "what is better already is left alone: {sysctls}");
    assert!(!sysctls.contains("dirty_background_bytes"), "less is better there: {sysctls}");
    let rules = scratch.tree.read(UDEV_RULES).unwrap();
    assert!(
        rules.contains("ATTR{wwid}==\"eui.0025388b01234567\", ATTR{queue/scheduler}=\"none\"\n"),
        "{rules}"
    );
    assert!(!rules.contains("write_cache") && !rules.contains("read_ahead_kb"), "{rules}");
    let drop_in = scratch.tree.read(DROP_IN).unwrap();
    assert!(drop_in.contains("\n[Service]\n") && drop_in.contains("\nLimitNOFILE=65536\n"));
    assert!(drop_in.contains("\nIOWeight=1000\n"), "{drop_in}");
    let tuned = scratch.tree.read("/etc/tuned/walhub/tuned.conf").unwrap();
    assert!(tuned.contains("\n[cpu]\ngovernor=performance\n"), "{tuned}");
    assert!(tuned.contains("\n/sys/block/nvme0n1/queue/scheduler=none\n"), "{tuned}");
    let tmpfiles = scratch.tree.read(persist::TMPFILES_CONF).unwrap();
    assert_eq!(tmpfiles.matches("\nw ").count(), 1, "{tmpfiles}");
    assert!(undo_all(&scratch).is_complete());
    assert_eq!(scratch.snapshot(), before);
    assert_eq!(undo_all(&scratch).notes, ["nothing is applied"]);
}

#[test]
fn a_dry_run_changes_nothing_and_names_every_change() {
    let scratch = server();
    let before = scratch.snapshot();
    let planned = apply(&scratch.tree, &machine(&scratch), &profile(), true).unwrap();
    assert_eq!(scratch.snapshot(), before);
    let done = apply_all(&scratch);
    let paths = |outcome: &Outcome| {
        let changes = outcome.steps.iter().filter(|step| step.verb != "make directory");
        changes.map(|step| (step.verb, step.path.clone(), step.to.clone())).collect::<Vec<_>>()
    };
    assert_eq!(paths(&planned), paths(&done));
    let applied = scratch.snapshot();
    let planned = undo(&scratch.tree, true).unwrap();
    assert_eq!(scratch.snapshot(), applied);
    assert_eq!(planned.steps.len(), paths(&done).len());
}

#[test]
fn an_apply_interrupted_at_any_step_can_be_undone() {
    for changes in 0.. {
        let scratch = server();
        let before = scratch.snapshot();
        let kernel = Kernel::new(&scratch.tree, changes);
        let result = apply(&kernel, &machine(&scratch), &profile(), false);
        if result.is_ok() && !kernel.has_stopped() {
            assert!(changes > 30, "only {changes} changes");
            break;
        }
        undo_all(&scratch);
        let mut after = scratch.snapshot();
        // The one thing that the journal cannot announce is the directory it is to be in.
        if changes <= 1 {
            after.retain(|path, _| !path.starts_with("/var/lib/walhub"));
        }
        assert_eq!(after, before, "after {changes} changes");
    }
}

#[test]
fn an_apply_interrupted_at_any_step_can_be_finished_and_undone() {
    let wanted = {
        let scratch = server();
        apply_all(&scratch);
        scratch.snapshot()
    };
    for changes in 0.. {
        let scratch = server();
        let before = scratch.snapshot();
        let kernel = Kernel::new(&scratch.tree, changes);
        let result = apply(&kernel, &machine(&scratch), &profile(), false);
        if result.is_ok() && !kernel.has_stopped() {
            break;
        }
        apply_all(&scratch);
        let journal = Journal::load(&scratch.tree).unwrap().unwrap();
        assert!(journal.complete);
        let without_journal = |mut all: std::collections::BTreeMap<String, Option<String>>| {
            all.remove(JOURNAL);
            all
        };
        let (now, wanted) = (without_journal(scratch.snapshot()), without_journal(wanted.clone()));
        assert_eq!(now, wanted, "after {changes} changes");
        undo_all(&scratch);
        let mut after = scratch.snapshot();
        if changes <= 1 {
            after.retain(|path, _| !path.starts_with("/var/lib/walhub"));
        }
        assert_eq!(after, before, "after {changes} changes");
    }
}

#[test]
fn an_undo_interrupted_at_any_step_can_be_finished() {
    for changes in 0.. {
        let scratch = server();
        let before = scratch.snapshot();
        apply_all(&scratch);
        let kernel = Kernel::new(&scratch.tree, changes);
        let result = undo(&kernel, false);
        if !kernel.has_stopped() {
            assert!(result.unwrap().is_complete());
            break;
        }
        undo_all(&scratch);
        let mut after = scratch.snapshot();
        // With the journal gone nothing says any more that its directory was made.
        if Journal::load(&scratch.tree).unwrap().is_none() {
            after.retain(|path, content| path != "/var/lib/walhub" || content.is_some());
        }
        assert_eq!(after, before, "after {changes} changes");
    }
}

#[test]
fn applying_again_changes_nothing_and_keeps_the_first_values() {
    let scratch = server();
    let before = scratch.snapshot();
    apply_all(&scratch);
    let applied = scratch.snapshot();
    assert_eq!(apply_all(&scratch).steps, []);
    assert_eq!(scratch.snapshot(), applied);
    undo_all(&scratch);
    assert_eq!(scratch.snapshot(), before);
}

#[test]
fn what_somebody_else_changed_since_is_left_alone() {
    let scratch = server();
    apply_all(&scratch);
    scratch.tree.write_value("/proc/sys/vm/swappiness", "1").unwrap();
    let mine = scratch.tree.read(SYSCTL_CONF).unwrap() + "vm.overcommit_memory = 2\n";
    scratch.tree.write_file(SYSCTL_CONF, &mine).unwrap();
    let outcome = undo_all(&scratch);
    let left: Vec<_> = outcome
        .steps
        .iter()
        .filter(|step| matches!(step.state, StepState::LeftAlone(_)))
        .map(|step| step.path.as_str())
        .collect();
    assert_eq!(left, [SYSCTL_CONF, "/proc/sys/vm/swappiness"]);
    assert_eq!(scratch.tree.read("/proc/sys/vm/swappiness").unwrap(), "1\n");
    assert_eq!(scratch.tree.read(SYSCTL_CONF).unwrap(), mine);
    assert!(!scratch.tree.exists(JOURNAL));
}

#[test]
fn a_file_of_somebody_else_is_never_touched() {
    let scratch = server();
    scratch.tree.make_directory("/etc/udev/rules.d").unwrap();
    scratch.tree.write_file(UDEV_RULES, "# mine\n").unwrap();
    let before = scratch.snapshot();
    let error = apply(&scratch.tree, &machine(&scratch), &profile(), false).unwrap_err();
    assert!(matches!(&error, ApplyError::ForeignFile(path) if path == UDEV_RULES), "{error}");
    assert_eq!(scratch.snapshot(), before);
}

#[test]
fn another_profile_has_to_be_undone_first() {
    let scratch = server();
    apply_all(&scratch);
    let laptop = Profile::named("laptop").unwrap();
    let error = apply(&scratch.tree, &machine(&scratch), &laptop, false).unwrap_err();
    assert!(error.to_string().contains("\"bare-metal-nvme\" is applied"), "{error}");
}

#[test]
fn a_journal_that_cannot_be_read_stops_everything() {
    let scratch = server();
    scratch.tree.make_directory("/var/lib/walhub").unwrap();
    for content in [
        "{",
        "{\"version\":1,\"profile\":\"x\",\"complete\":true,\"directories\":[\"/etc\"],\"changes\":[\
         {\"kind\":\"file\",\"path\":\"/etc/passwd\",\"old\":\"\",\"new\":\"\",\"took\":null}]}",
        "{\"version\":1,\"profile\":\"x\",\"complete\":true,\"directories\":[],\"changes\":[\
         {\"kind\":\"value\",\"path\":\"/proc/sys/../mem\",\"old\":\"\",\"new\":\"\",\"took\":null}]}",
        "{\"version\":1,\"profile\":\"x\",\"complete\":true,\"directories\":[\"/home\"],\"changes\":[]}",
        "{\"version\":2,\"profile\":\"x\",\"complete\":true,\"directories\":[],\"changes\":[]}",
    ] {
        scratch.tree.write_file(JOURNAL, content).unwrap();
        let before = scratch.snapshot();
        assert!(apply(&scratch.tree, &machine(&scratch), &profile(), false).is_err());
        assert!(undo(&scratch.tree, false).is_err());
        assert_eq!(scratch.snapshot(), before);
    }
}

#[test]
fn what_the_kernel_refuses_is_told_and_not_kept() {
    let scratch = server();
    let before = scratch.snapshot();
    let kernel = Kernel::new(&scratch.tree, usize::MAX);
    let wbt = "/sys/block/nvme0n1/queue/wbt_lat_usec";
    kernel.refusing.borrow_mut().insert(wbt.to_owned(), 22);
    let outcome = apply(&kernel, &machine(&scratch), &profile(), false).unwrap();
    assert!(!outcome.is_complete());
    let failed = outcome.steps.iter().find(|step| step.path == wbt).unwrap();
    assert!(matches!(failed.state, StepState::Failed(_)));
    assert!(!scratch.tree.read(UDEV_RULES).unwrap().contains("wbt_lat_usec"));
    let journal = Journal::load(&scratch.tree).unwrap().unwrap();
    assert!(journal.change_of(wbt).is_none() && !journal.complete);
    undo_all(&scratch);
    assert_eq!(scratch.snapshot(), before);
}

#[test]
fn a_value_that_the_kernel_clamps_is_told_and_undone() {
    let scratch = server();
    let before = scratch.snapshot();
    let kernel = Kernel::new(&scratch.tree, usize::MAX);
    let path = "/proc/sys/vm/dirty_bytes";
    kernel.clamped.borrow_mut().insert(path.to_owned(), 400_000_000);
    let outcome = apply(&kernel, &machine(&scratch), &profile(), false).unwrap();
    let step = outcome.steps.iter().find(|step| step.path == path).unwrap();
    assert_eq!(step.state, StepState::Took("400000000".to_owned()));
    assert_eq!(scratch.tree.read("/proc/sys/vm/dirty_ratio").unwrap(), "0\n");
    undo_all(&scratch);
    assert_eq!(scratch.snapshot(), before);
}

#[test]
fn a_missing_knob_is_reported_and_no_error() {
    let scratch = Scratch::new(&[("/proc/sys/vm/swappiness", "5\n"), ("/etc/hosts", "")]);
    let before = scratch.snapshot();
    let report = check(&scratch.tree, &machine(&scratch), &profile());
    let row = |name: &str| report.rows.iter().find(|row| row.knob.name == name).unwrap();
    assert_eq!(row("vm.swappiness").state, State::Ok);
    for name in ["vm.dirty_bytes", "scheduler", "scaling_governor", "nofile", "IOWeight"] {
        assert_eq!(row(name).state, State::Missing, "{name}");
    }
    assert_eq!(row("noatime").state, State::Advice);
    assert!(report.holds);
    let outcome = apply(&scratch.tree, &machine(&scratch), &profile(), false).unwrap();
    assert_eq!(outcome.steps, []);
    assert!(outcome.notes.iter().any(|note| note.starts_with("vm.dirty_bytes: there is no")));
    assert!(outcome.notes.iter().any(|note| note.starts_with("nofile: no systemd here")));
    assert_eq!(scratch.snapshot(), before);
}

#[test]
fn a_parameter_of_a_module_is_set_kept_and_restored() {
    let parameter = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
    let scratch = Scratch::new(&[
        (parameter, "0\n"),
        ("/etc/tmpfiles.d/other.conf", ""),
        ("/etc/tuned/active_profile", "virtual-guest\n"),
        ("/var/lib/dpkg/status", ""),
    ]);
    let before = scratch.snapshot();
    let profile = Profile::named("cloud-vm").unwrap();
    let machine = machine(&scratch);
    let kernel = Kernel::new(&scratch.tree, usize::MAX);
    assert!(apply(&kernel, &machine, &profile, false).unwrap().is_complete());
    assert_eq!(scratch.tree.read(parameter).unwrap(), "200000\n");
    let tmpfiles = scratch.tree.read(persist::TMPFILES_CONF).unwrap();
    assert!(tmpfiles.contains(&format!("\nw {parameter} - - - - 200000\n")), "{tmpfiles}");
    let tuned = scratch.tree.read("/etc/tuned/walhub/tuned.conf").unwrap();
    assert!(tuned.contains(&format!("\n[sysfs]\n{parameter}=200000\n")), "{tuned}");
    assert!(undo_all(&scratch).is_complete());
    assert_eq!(scratch.snapshot(), before);
}
