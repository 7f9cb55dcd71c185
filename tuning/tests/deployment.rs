//! The files that a package ships agree with the profiles, and systemd accepts the unit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walhub_tuning::persist::packaged_tuned;
use walhub_tuning::{Kind, PROFILE_NAMES, Profile, System as _, Tree, limits};

/// Set it to have the shipped tuned profiles written instead of compared.
const WRITE: &str = "WALHUB_TUNING_WRITE";

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_shipped_tuned_profiles_are_those_of_the_data() {
    // tuned is for hosts.
    for name in PROFILE_NAMES.iter().filter(|name| **name != "container") {
        let profile = Profile::named(name).unwrap();
        let path = shipped(&format!("tuned/walhub-{name}/tuned.conf"));
        let content = packaged_tuned(name, &profile.knobs);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &content).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, content, "run the test once with {WRITE}=1 and commit {path:?}");
    }
}

#[test]
fn the_unit_gives_the_limits_that_the_profiles_want() {
    let root = tempfile::tempdir().unwrap();
    let tree = Tree::new(root.path());
    let unit = fs::read_to_string(shipped("systemd/walhub@.service")).unwrap();
    fs::create_dir_all(tree.place("/usr/lib/systemd/system")).unwrap();
    tree.write_file("/usr/lib/systemd/system/walhub@.service", &unit).unwrap();
    for name in PROFILE_NAMES {
        let knobs = Profile::named(name).unwrap().knobs;
        let wanted = knobs.iter().filter(|knob| knob.kind == Kind::Limit);
        for knob in wanted {
            let now = limits::of_service(&tree, &knob.name, true).unwrap();
            assert!(knob.holds(&now), "{name}: {} is {now}", knob.name);
        }
    }
}

/// Runs systemd-analyze on the unit, with a program that is installed where this test runs.
fn analyze(verb: &[&str]) -> (bool, String) {
    let root = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(shipped("systemd/walhub@.service")).unwrap();
    let unit = unit.replace("/usr/bin/walhub", "/bin/true");
    let path = root.path().join("walhub@test.service");
    fs::write(&path, unit).unwrap();
    let output = Command::new("systemd-analyze").args(verb).arg(&path).output();
    let output = output.unwrap_or_else(|error| {
        panic!("systemd-analyze: {error}: apt-get install --no-install-recommends systemd")
    });
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn systemd_accepts_the_unit() {
    let (accepted, text) = analyze(&["verify", "--man=no"]);
    assert!(accepted && !text.contains("walhub@"), "{text}");
}

#[test]
fn systemd_finds_little_exposure_in_the_unit() {
    // The scale ends at 100, and "OK" at 50. What is left is the network and the machine's files.
    let (is_below, text) = analyze(&["security", "--offline=true", "--no-pager", "--threshold=15"]);
    assert!(is_below, "{text}");
}
