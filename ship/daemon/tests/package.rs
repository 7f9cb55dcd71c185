//! The Debian package: built by cargo-deb, installed into a tree, upgraded, removed, purged.
//!
//! dpkg works on a tree of its own and runs the maintainer scripts without chroot, so the machine that
//! tests is not changed. The binary is the one under test, not a release build.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_walhub");

/// What enabling an instance makes.
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/walhub@main.service";

/// A program that has to be there, with what installs it.
fn program(name: &str, install: &str) -> Command {
    let mut command = Command::new(name);
    let known = Command::new(name).arg("--version").output();
    assert!(known.is_ok(), "{name} is missing: {install}, or let tests/run do it");
    // Administration programs are not on everybody's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    output
}

/// The package, with the program that this test was built with.
fn build(directory: &Path) -> PathBuf {
    // cargo-deb takes what is in the directory of the release profile.
    let release = directory.join("release");
    fs::create_dir(&release).unwrap();
    if fs::hard_link(BINARY, release.join("walhub")).is_err() {
        fs::copy(BINARY, release.join("walhub")).unwrap();
    }
    let package = directory.join("walhub.deb");
    let mut build = program("cargo-deb", "cargo install --locked cargo-deb");
    build.args(["deb", "--no-build", "--no-strip", "--fast", "--manifest-path"]);
    build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).arg("--output").arg(&package);
    succeed(build.env("CARGO_TARGET_DIR", directory));
    package
}

/// A tree in which dpkg finds a system without packages.
struct Installation {
    root: PathBuf,
}

impl Installation {
    fn new(root: PathBuf) -> Self {
        for directory in ["etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (file, content) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/shadow", ""),
            ("etc/gshadow", ""),
            ("var/lib/dpkg/status", ""),
            ("var/lib/dpkg/available", ""),
        ] {
            fs::write(root.join(file), content).unwrap();
        }
        Self { root }
    }

    fn dpkg(&self, arguments: &[&OsStr]) -> String {
        // dpkg and useradd are for root: others are that in a user namespace, in a tree of their own.
        let mut dpkg = if rustix::process::geteuid().is_root() {
            program("dpkg", "apt-get install dpkg")
        } else {
            let mut unshare = program("unshare", "apt-get install util-linux");
            unshare.args(["--map-root-user", "dpkg"]);
            unshare
        };
        dpkg.arg("--root").arg(&self.root).arg("--log=/dev/null");
        dpkg.args(["--force-script-chrootless", "--force-depends"]);
        let output = succeed(dpkg.args(arguments));
        String::from_utf8(output.stdout).unwrap()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        self.root.join(path).symlink_metadata().is_ok()
    }
}

#[test]
fn the_package_installs_upgrades_and_leaves_wal_behind() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let package = build(scratch.path());
    let installation = Installation::new(scratch.path().join("root"));
    let install = ["-i".as_ref(), package.as_os_str()];
    installation.dpkg(&install);

    let walhub = installation.root.join("usr/bin/walhub");
    let version = succeed(Command::new(&walhub).arg("--version")).stdout;
    assert_eq!(version, format!("walhub {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    let users = installation.read("etc/passwd");
    let user = users.lines().find(|line| line.starts_with("walhub:")).unwrap();
    assert!(user.ends_with(":/var/lib/walhub:/usr/sbin/nologin"), "{user}");
    assert!(installation.read("etc/group").contains("\nwalhub:"));
    assert!(installation.has("var/lib/walhub"));
    for file in [
        "usr/share/walhub/profiles/cloud-vm.toml",
        "usr/share/doc/walhub/README.md",
        "usr/share/doc/walhub/copyright",
        "usr/lib/tuned/walhub-laptop/tuned.conf",
        "usr/lib/tuned/profiles/walhub-laptop/tuned.conf",
    ] {
        assert!(!installation.read(file).is_empty(), "{file}");
    }
    the_unit_is_found(&installation, &walhub);

    let text = installation.dpkg(&install);
    assert!(text.contains("keep the old version until \"systemctl restart"), "{text}");
    assert_eq!(installation.read("etc/passwd"), users, "an upgrade makes no second user");

    // A hub's data directory.
    fs::create_dir(installation.root.join("var/lib/walhub/main")).unwrap();
    installation.dpkg(&["-r".as_ref(), "walhub".as_ref()]);
    assert!(!installation.has("usr/bin/walhub") && !installation.has("usr/lib/tuned"));
    assert!(installation.has(ENABLED), "until the package is installed again");
    let text = installation.dpkg(&["-P".as_ref(), "walhub".as_ref()]);
    assert!(text.contains("/var/lib/walhub is not empty and stays"), "{text}");
    assert!(installation.has("var/lib/walhub/main") && !installation.has(ENABLED));
}

/// systemd can enable an instance, and "walhub tune" sees the unit's limits.
fn the_unit_is_found(installation: &Installation, walhub: &Path) {
    let mut systemctl = program("systemctl", "apt-get install --no-install-recommends systemd");
    systemctl.arg("--root").arg(&installation.root);
    succeed(systemctl.args(["enable", "walhub@main.service"]));
    assert!(installation.has(ENABLED));
    let mut check = Command::new(walhub);
    check.args(["tune", "check", "--json", "--profile", "bare-metal-nvme", "--root"]);
    let output = check.arg(&installation.root).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for (limit, value) in [("memlock", "infinity"), ("nofile", "65536")] {
        let row = rows.iter().find(|row| row["name"] == limit).unwrap();
        assert_eq!((&row["now"], &row["state"]), (&value.into(), &"ok".into()), "{row}");
    }
}
