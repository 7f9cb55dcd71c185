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

#[test]
fn systemd_accepts_the_unit() {
    let root = tempfile::tempdir().unwrap();
    // The program is not installed where this test runs.
    let unit = fs::read_to_string(shipped("systemd/walhub@.service")).unwrap();
    let unit = unit.replace("/usr/bin/walhub", "/bin/true");
    let path = root.path().join("walhub@test.service");
    fs::write(&path, unit).unwrap();
    let verify = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&path).output();
    // Without systemd there is nobody to ask.
    let Ok(output) = verify else { return };
    let text = String::from_utf8_lossy(&output.stderr);
    let about_unit: Vec<_> = text.lines().filter(|line| line.contains("walhub@")).collect();
    assert!(output.status.success() && about_unit.is_empty(), "{text}");
}
