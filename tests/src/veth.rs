//! Two network namespaces joined by a pair of virtual Ethernet devices; only root can make them.
//!
//! Addresses on both sides are loopback ones, which `zerocopy_send` takes for this machine's, and go over the devices
//! all the same. The near side is where a hub runs, with the address that tests give it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::run_ok;
use crate::scratch::{Scratch, host};

/// The address of the far side.
const FAR: &str = "127.255.255.2";

/// Both namespaces; they go when this is dropped and what runs in them has ended.
#[derive(Debug)]
pub struct Veth {
    near: String,
    far: String,
}

impl Veth {
    /// Makes both.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("walhub-{}-{number}-{side}", std::process::id());
        let veth = Self { near: name("near"), far: name("far") };
        for name in [&veth.near, &veth.far] {
            run_ok(Command::new("ip").args(["netns", "add", name]));
        }
        ip(
            &veth.near,
            &["link", "add", "veth", "type", "veth", "peer", "veth", "netns", &veth.far],
        );
        let near = host().to_string();
        for (name, own, other) in [(&veth.near, &*near, FAR), (&veth.far, FAR, &*near)] {
            enter(name);
            for (knob, value) in [("route_localnet", "1"), ("rp_filter", "0")] {
                for which in ["all", "veth"] {
                    let path = format!("/proc/sys/net/ipv4/conf/{which}/{knob}");
                    fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
                }
            }
            ip(name, &["link", "set", "lo", "up"]);
            // Of all loopback addresses only this side's are to be here.
            ip(name, &["address", "flush", "dev", "lo"]);
            ip(name, &["address", "add", &format!("{own}/32"), "dev", "lo"]);
            ip(name, &["link", "set", "veth", "up"]);
            ip(name, &["route", "add", &format!("{other}/32"), "dev", "veth", "src", own]);
        }
        veth.enter_near();
        veth
    }

    /// Has what this thread starts from now on run on the near side.
    pub fn enter_near(&self) {
        enter(&self.near);
    }

    /// Has what this thread starts from now on run on the far side.
    pub fn enter_far(&self) {
        enter(&self.far);
    }

    /// Has the far device take what arrives into memory of its own, as the driver of a network card
    /// does; else it passes on the sender's memory. A program that lets everything pass is enough.
    ///
    /// # Panics
    /// When the kernel does not take the program.
    pub fn receive_as_a_card_does(&self, scratch: &Scratch) {
        let file = scratch.path("pass.o");
        fs::write(&file, pass_program()).expect("an object file");
        let file = file.display().to_string();
        ip(&self.far, &["link", "set", "veth", "xdpdrv", "object", &file, "section", "xdp"]);
    }
}

impl Default for Veth {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            // What is left of it is in no other test's way.
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(namespace: &str, arguments: &[&str]) {
    run_ok(Command::new("ip").args(["-n", namespace]).args(arguments));
}

fn enter(namespace: &str) {
    let path = Path::new("/run/netns").join(namespace);
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a network namespace");
}

/// An object file with the XDP program `return XDP_PASS`, as `ip` loads it: a section header for each of
/// nothing, the program, its licence, the symbols and the names.
fn pass_program() -> Vec<u8> {
    const NAMES: &[u8] = b"\0xdp\0license\0.symtab\0.strtab\0pass\0";
    // r0 = 2; exit
    const PROGRAM: &[u8] = &[0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    const HEADER_LEN: u64 = 64;
    let name = |name: &str| {
        let name = format!("\0{name}\0");
        let at = NAMES.windows(name.len()).position(|part| part == name.as_bytes());
        u32::try_from(at.expect("one of them") + 1).expect("a small offset")
    };
    let len = |bytes: &[u8]| u64::try_from(bytes.len()).expect("a length fits");
    // The first symbol is none; the second is a global function, in section 1.
    let mut symbols = vec![0; 24];
    symbols.extend(name("pass").to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend([0_u64, len(PROGRAM)].map(u64::to_le_bytes).concat());
    // Name, type, flags and content.
    let sections: [(&str, u32, u64, &[u8]); 4] = [
        ("xdp", 1, 6, PROGRAM),
        ("license", 1, 3, b"GPL\0"),
        (".symtab", 2, 0, &symbols),
        (".strtab", 3, 0, NAMES),
    ];
    let (mut content, mut headers) = (Vec::new(), vec![0; 64]);
    for (section, kind, flags, bytes) in sections {
        content.resize(content.len().next_multiple_of(8), 0);
        headers.extend(name(section).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        let offset = HEADER_LEN + len(&content);
        headers.extend([flags, 0, offset, len(bytes)].map(u64::to_le_bytes).concat());
        // Symbols are of 24 bytes, the first one is local, and their names are in section 4.
        let (link, info, entry) = if kind == 2 { (4_u32, 1_u32, 24) } else { (0, 0, 0) };
        headers.extend([link, info].map(u32::to_le_bytes).concat());
        headers.extend([8_u64, entry].map(u64::to_le_bytes).concat());
        content.extend_from_slice(bytes);
    }
    content.resize(content.len().next_multiple_of(8), 0);
    // 64 bits, little-endian; relocatable, for BPF; five sections, the last of them the names.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([1_u16, 247].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0, 0, HEADER_LEN + len(&content)].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 0, 0, 64, 5, 4].map(u16::to_le_bytes).concat());
    [file, content, headers].concat()
}
