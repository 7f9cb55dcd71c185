//! Recognises the machine: what kind it is, and which disks and network cards walhub uses.
//!
//! The order is that of what limits most: inside a container little can be set, whatever the machine
//! around it is. The signs are those of `systemd-detect-virt` as far as they are files.

use serde::Serialize;

use crate::system::System;

/// SMBIOS chassis types of portable machines (System Management BIOS specification, table 17):
/// portable, laptop, notebook, sub notebook, tablet, convertible, detachable.
const PORTABLE_CHASSIS: [&str; 7] = ["8", "9", "10", "14", "30", "31", "32"];
/// Words in /proc/1/cgroup that a container runtime puts there.
const CONTAINER_CGROUPS: [&str; 6] =
    ["docker", "kubepods", "containerd", "libpod", "/lxc", "/machine.slice/"];
/// Beginnings of the DMI vendor or product of virtual machines, for CPUs without a hypervisor flag.
const VIRTUAL_VENDORS: [&str; 10] = [
    "QEMU",
    "KVM",
    "Amazon EC2",
    "Google Compute Engine",
    "Microsoft Corporation Virtual",
    "VMware",
    "VirtualBox",
    "Xen",
    "OpenStack",
    "Parallels",
];
/// Layers of device mapper and RAID that are looked through.
const LAYERS_MAX: usize = 8;

/// Where the data directory lies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mount {
    /// The mount point.
    pub point: String,
    /// The type of the file system.
    pub file_system: String,
    /// What is mounted.
    pub source: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
    /// Major and minor number of the device.
    device: String,
}

/// What is known about the machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Machine {
    /// The profile that fits.
    pub profile: &'static str,
    /// The sign it was recognised by.
    pub because: String,
    /// The disks under the data directory, as named in /sys/block.
    pub disks: Vec<String>,
    /// The mount the data directory is on.
    pub mount: Option<Mount>,
    /// Network cards with hardware behind them.
    pub interfaces: Vec<String>,
}

impl Machine {
    /// Looks at the machine, and at the disks under `data_dir`, an absolute path without links.
    #[must_use]
    pub fn recognise(system: &dyn System, data_dir: &str) -> Self {
        let mount = mount_of(system, data_dir);
        let disks = mount.as_ref().map(|mount| disks_of(system, mount)).unwrap_or_default();
        let interfaces = system.list("/sys/class/net").into_iter();
        let interfaces =
            interfaces.filter(|name| system.exists(&format!("/sys/class/net/{name}/device")));
        let (profile, because) = kind(system, &disks);
        Self { profile, because, disks, mount, interfaces: interfaces.collect() }
    }
}

fn read(system: &dyn System, path: &str) -> String {
    system.read(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn kind(system: &dyn System, disks: &[String]) -> (&'static str, String) {
    if let Some(sign) = container_sign(system) {
        return ("container", sign);
    }
    if let Some(sign) = virtual_sign(system) {
        return ("cloud-vm", sign);
    }
    if let Some(sign) = laptop_sign(system) {
        return ("laptop", sign);
    }
    match disks {
        [] => ("bare-metal-sata", "no block device found under the data directory".to_owned()),
        disks if disks.iter().all(|disk| disk.starts_with("nvme")) => {
            ("bare-metal-nvme", format!("the data directory is on {}", disks.join(", ")))
        }
        disks => ("bare-metal-sata", format!("the data directory is on {}", disks.join(", "))),
    }
}

fn container_sign(system: &dyn System) -> Option<String> {
    // systemd leaves the last one in every container that it knows to be one.
    for marker in ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"] {
        if system.exists(marker) {
            return Some(format!("{marker} exists"));
        }
    }
    // Only root may read it; others find one of the other signs or none.
    let environment = system.read("/proc/1/environ").unwrap_or_default();
    if let Some(container) = environment.split('\0').find(|entry| entry.starts_with("container=")) {
        return Some(format!("process 1 has {container} in its environment"));
    }
    let cgroup = read(system, "/proc/1/cgroup");
    let word = CONTAINER_CGROUPS.iter().find(|word| cgroup.contains(**word))?;
    Some(format!("/proc/1/cgroup has \"{word}\""))
}

fn virtual_sign(system: &dyn System) -> Option<String> {
    let hypervisor = read(system, "/sys/hypervisor/type");
    // A Xen host sees itself as a guest, but for this.
    let is_xen_host = read(system, "/proc/xen/capabilities").contains("control_d");
    if is_xen_host {
        return None;
    }
    if !hypervisor.is_empty() {
        return Some(format!("/sys/hypervisor/type is {hypervisor}"));
    }
    let cpuinfo = read(system, "/proc/cpuinfo");
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    if let Some(flags) = flags {
        // x86 tells it itself, and an EC2 instance without hypervisor has EC2's vendor all the same.
        let is_guest = flags.split_whitespace().any(|flag| flag == "hypervisor");
        return is_guest.then(|| "the CPU has the hypervisor flag".to_owned());
    }
    let vendor = read(system, "/sys/class/dmi/id/sys_vendor");
    let product = read(system, "/sys/class/dmi/id/product_name");
    if product.contains(".metal") {
        return None;
    }
    let both = format!("{vendor} {product}");
    let known = |name: &&&str| {
        vendor.starts_with(**name) || product.starts_with(**name) || both.starts_with(**name)
    };
    VIRTUAL_VENDORS.iter().find(known).map(|_| format!("the machine calls itself \"{both}\""))
}

fn laptop_sign(system: &dyn System) -> Option<String> {
    let chassis = read(system, "/sys/class/dmi/id/chassis_type");
    if PORTABLE_CHASSIS.contains(&chassis.as_str()) {
        return Some(format!("the chassis type is {chassis}, a portable one"));
    }
    let supplies = system.list("/sys/class/power_supply");
    let battery = supplies.into_iter().find(|name| {
        let supply =
            |attribute: &str| read(system, &format!("/sys/class/power_supply/{name}/{attribute}"));
        // A mouse has a battery too; the kernel says that it is a device's.
        supply("type") == "Battery" && supply("scope") != "Device"
    })?;
    Some(format!("there is a battery, {battery}"))
}

/// The mount that holds `path`: the last one of the longest mount point.
fn mount_of(system: &dyn System, path: &str) -> Option<Mount> {
    let mounts = system.read("/proc/self/mountinfo").ok()?;
    let holds = |mount: &Mount| {
        let point = mount.point.trim_end_matches('/');
        path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts.lines().filter_map(parse_mount).filter(holds).max_by_key(|mount| mount.point.len())
}

/// One line of /proc/self/mountinfo (proc(5)).
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<_> = left.split(' ').collect();
    let mut right = right.split(' ');
    let (file_system, source) = (right.next()?, right.next()?);
    let options = left.get(5)?.split(',').chain(right.next().unwrap_or_default().split(','));
    Some(Mount {
        point: unescaped(left.get(4)?),
        file_system: file_system.to_owned(),
        source: unescaped(source),
        options: options.filter(|option| !option.is_empty()).map(str::to_owned).collect(),
        device: (*left.get(2)?).to_owned(),
    })
}

/// The kernel writes a space, a tab, a newline and a backslash as octal numbers.
fn unescaped(text: &str) -> String {
    let text = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    text.replace("\\134", "\\")
}

/// The whole disks under a mount.
fn disks_of(system: &dyn System, mount: &Mount) -> Vec<String> {
    let uevent = read(system, &format!("/sys/dev/block/{}/uevent", mount.device));
    let by_number = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    // A file system of several devices, such as btrfs, has a number of its own, and names one.
    let name = match by_number {
        Some(name) => name.to_owned(),
        None => match mount.source.strip_prefix("/dev/") {
            Some(name) => name.to_owned(),
            None => return Vec::new(),
        },
    };
    let mut disks = Vec::new();
    collect_disks(system, &name, LAYERS_MAX, &mut disks);
    disks.sort();
    disks.dedup();
    disks
}

/// Adds the disks under block device `name`, through partitions, device mapper and RAID.
fn collect_disks(system: &dyn System, name: &str, layers: usize, disks: &mut Vec<String>) {
    let whole = system.list("/sys/block").into_iter().find(|disk| {
        disk == name
            || (!name.contains('/')
                && system.exists(&format!("/sys/block/{disk}/{name}/partition")))
    });
    let Some(whole) = whole else { return };
    let slaves = system.list(&format!("/sys/block/{whole}/slaves"));
    if slaves.is_empty() || layers == 0 {
        disks.push(whole);
        return;
    }
    for slave in slaves {
        collect_disks(system, &slave, layers - 1, disks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    const ROOT_ON_NVME: &str =
        "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,discard\n";

    fn recognise(files: &[(&str, &str)]) -> Machine {
        let scratch = Scratch::new(files);
        Machine::recognise(&scratch.tree, "/var/lib/walhub/main")
    }

    #[test]
    fn each_kind_is_recognised_by_each_of_its_signs() {
        let flags = "processor: 0\nflags\t\t: fpu sse hypervisor lahf_lm\n";
        let bare = "flags\t\t: fpu sse\n";
        let cases: [(&str, &[(&str, &str)]); 14] = [
            ("container", &[("/.dockerenv", ""), ("/proc/cpuinfo", flags)]),
            ("container", &[("/run/.containerenv", "")]),
            ("container", &[("/run/systemd/container", "lxc")]),
            ("container", &[("/proc/1/environ", "A=b\0container=podman\0")]),
            ("container", &[("/proc/1/cgroup", "0::/kubepods.slice/x\n")]),
            ("cloud-vm", &[("/proc/cpuinfo", flags), ("/proc/1/cgroup", "0::/init.scope\n")]),
            ("cloud-vm", &[("/sys/hypervisor/type", "xen\n")]),
            ("cloud-vm", &[("/sys/class/dmi/id/sys_vendor", "QEMU\n")]),
            ("laptop", &[("/sys/class/dmi/id/chassis_type", "10\n")]),
            ("laptop", &[("/sys/class/power_supply/BAT0/type", "Battery\n")]),
            ("bare-metal-sata", &[("/sys/class/dmi/id/chassis_type", "23\n")]),
            (
                "bare-metal-sata",
                &[("/sys/class/dmi/id/sys_vendor", "Amazon EC2"), ("/proc/cpuinfo", bare)],
            ),
            (
                "bare-metal-sata",
                &[
                    ("/sys/class/power_supply/mouse/type", "Battery\n"),
                    ("/sys/class/power_supply/mouse/scope", "Device\n"),
                ],
            ),
            (
                "bare-metal-sata",
                &[("/sys/hypervisor/type", "xen"), ("/proc/xen/capabilities", "control_d\n")],
            ),
        ];
        for (profile, files) in cases {
            let machine = recognise(files);
            assert_eq!(machine.profile, profile, "{files:?}");
            assert!(!machine.because.is_empty());
        }
    }

    #[test]
    fn a_partition_is_on_its_disk() {
        let machine = recognise(&[
            ("/proc/self/mountinfo", ROOT_ON_NVME),
            ("/sys/dev/block/259:2/uevent", "MAJOR=259\nDEVNAME=nvme0n1p2\n"),
            ("/sys/block/nvme0n1/nvme0n1p2/partition", "2\n"),
            ("/sys/block/sda/queue/scheduler", "none\n"),
            ("/sys/class/net/eth0/device/vendor", ""),
            ("/sys/class/net/lo/mtu", ""),
        ]);
        assert_eq!(machine.disks, ["nvme0n1"]);
        assert_eq!(machine.profile, "bare-metal-nvme");
        assert_eq!(machine.interfaces, ["eth0"]);
        let mount = machine.mount.unwrap();
        assert_eq!(mount.options, ["rw", "relatime", "rw", "discard"]);
    }

    #[test]
    fn device_mapper_is_looked_through() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      30 22 253:0 / /var/lib/walhub rw,noatime - xfs /dev/mapper/wal rw\n\
                      31 22 8:1 / /var/lib/walhub2 rw - ext4 /dev/sda1 rw\n";
        let machine = recognise(&[
            ("/proc/self/mountinfo", mounts),
            ("/sys/dev/block/253:0/uevent", "DEVNAME=dm-0\n"),
            ("/sys/block/dm-0/slaves/nvme0n1p1/partition", "1"),
            ("/sys/block/dm-0/slaves/nvme1n1/size", "1"),
            ("/sys/block/nvme0n1/nvme0n1p1/partition", "1"),
            ("/sys/block/nvme1n1/size", "1"),
            ("/sys/block/sda/sda1/partition", "1"),
        ]);
        assert_eq!(machine.disks, ["nvme0n1", "nvme1n1"]);
        assert_eq!(machine.profile, "bare-metal-nvme");
    }

    #[test]
    fn a_file_system_without_a_device_number_names_its_device() {
        let machine = recognise(&[
            ("/proc/self/mountinfo", "22 1 0:31 /@ / rw - btrfs /dev/sda1 rw\n"),
            ("/sys/block/sda/sda1/partition", "1"),
        ]);
        assert_eq!(machine.disks, ["sda"]);
        let machine = recognise(&[("/proc/self/mountinfo", "22 1 0:31 / / rw - tmpfs tmp rw\n")]);
        assert!(machine.disks.is_empty());
    }
}
