//! The file of all roles: text, one role or membership a line, written anew as a whole.
//!
//! ```text
//! walhub roles 1 crc32c=8f2a01b3
//! next_oid=16385
//! role oid=10 name="postgres" superuser inherit createrole createdb login replication bypassrls
//! role oid=16384 name="s1" inherit login replication connection_limit=2 password="SCRAM-SHA-256$..."
//! member role=3373 member=16384 grantor=10 admin
//! ```
//!
//! The checksum is of everything after the first line. Predefined roles are not written; their memberships are.
//! `valid_until` is in microseconds since 2000-01-01 UTC; `keeper` is there when somebody else keeps the role.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use super::learnt::Keeper;
use super::predefined::{self, is_predefined, is_reserved};
use super::{BOOTSTRAP_SUPERUSER, MEMBERSHIPS_MAX, Membership, ROLES_MAX, Role, Roles};
use crate::time::Timestamp;

/// CRC-32C, continued from an earlier value; the first is 0.
pub type Crc32c = fn(u32, &[u8]) -> u32;

/// What the first line begins with.
const TITLE: &str = "walhub roles ";
/// Changes with the layout.
const VERSION: u32 = 1;
/// Bytes of the largest file that is read.
pub const ROLES_FILE_BYTES_MAX: usize = 64 << 20;

/// A file that does not hold roles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RolesFileError {
    /// Not a file of roles.
    Title,
    /// Of a release that writes another layout.
    Version {
        /// What the file has.
        got: u32,
    },
    /// The checksum is another one: the file is damaged, or somebody has edited it.
    Checksum {
        /// The checksum of the text.
        got: u32,
        /// The checksum that the file has.
        want: u32,
    },
    /// The checksum fits and a line does not: not written by this code.
    Line {
        /// Its number, from one.
        number: usize,
    },
    /// The lines do not make roles: two of one name, or members of nothing.
    Inconsistent,
}

impl fmt::Display for RolesFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Title => f.write_str("it is not a file of roles"),
            Self::Version { got } => {
                write!(f, "it has version {got}, this walhub reads version {VERSION}")
            }
            Self::Checksum { got, want } => {
                write!(f, "checksum mismatch: is {got:08x}, should be {want:08x}")
            }
            Self::Line { number } => write!(f, "line {number} is malformed"),
            Self::Inconsistent => f.write_str("its roles and memberships contradict each other"),
        }
    }
}

/// The word for an attribute, and where it is.
type Flag = (&'static str, fn(&mut Role) -> &mut bool);

/// The attributes that are words, in the order in which they are written.
const FLAGS: [Flag; 7] = [
    ("superuser", |role| &mut role.superuser),
    ("inherit", |role| &mut role.inherit),
    ("createrole", |role| &mut role.create_role),
    ("createdb", |role| &mut role.create_db),
    ("login", |role| &mut role.login),
    ("replication", |role| &mut role.replication),
    ("bypassrls", |role| &mut role.bypass_rls),
];

/// The file's content.
#[must_use]
pub fn encode_roles(roles: &Roles, crc32c: Crc32c) -> String {
    let mut body = format!("next_oid={}\n", roles.next_oid);
    for role in roles.iter().filter(|role| !is_predefined(role.oid)) {
        put_role(&mut body, role);
    }
    for it in roles.memberships() {
        let admin = if it.admin_option { " admin" } else { "" };
        let Membership { role, member, grantor, .. } = it;
        body += &format!("member role={role} member={member} grantor={grantor}{admin}\n");
    }
    let checksum = crc32c(0, body.as_bytes());
    format!("{TITLE}{VERSION} crc32c={checksum:08x}\n{body}")
}

fn put_role(body: &mut String, role: &Role) {
    *body += &format!("role oid={} name={}", role.oid, quoted(&role.name));
    let mut copy = role.clone();
    for (word, flag) in FLAGS {
        if *flag(&mut copy) {
            body.push(' ');
            body.push_str(word);
        }
    }
    if role.connection_limit != -1 {
        let _ = write!(body, " connection_limit={}", role.connection_limit);
    }
    if let Some(password) = &role.password {
        let _ = write!(body, " password={}", quoted(password));
    }
    if let Some(until) = role.valid_until {
        let _ = write!(body, " valid_until={}", until.0);
    }
    match role.keeper {
        Keeper::Here => {}
        Keeper::Upstream => body.push_str(" keeper=upstream"),
        Keeper::AuthFile => body.push_str(" keeper=auth_file"),
    }
    body.push('\n');
}

/// In quotes, on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// A word of a line: its name, and its value if it has one.
type Word = (String, Option<String>);

/// The words of a line; `None` when a quote does not end.
fn words(line: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while chars.peek().is_some() {
        let (mut name, mut value): Word = (String::new(), None);
        while let Some(character) = chars.next() {
            match (character, &mut value) {
                (' ', _) => break,
                ('=', None) => value = Some(String::new()),
                ('"', Some(value)) if value.is_empty() => loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => value.push(match chars.next()? {
                            'n' => '\n',
                            'r' => '\r',
                            other => other,
                        }),
                        other => value.push(other),
                    }
                },
                (other, Some(value)) => value.push(other),
                (other, None) => name.push(other),
            }
        }
        words.push((name, value));
    }
    Some(words)
}

/// Reads a file's content.
///
/// # Errors
/// When it is not a whole and undamaged one.
pub fn decode_roles(content: &str, crc32c: Crc32c) -> Result<Roles, RolesFileError> {
    let (title, body) = content.split_once('\n').ok_or(RolesFileError::Title)?;
    let rest = title.strip_prefix(TITLE).ok_or(RolesFileError::Title)?;
    let (version, checksum) = rest.split_once(" crc32c=").ok_or(RolesFileError::Title)?;
    let version: u32 = version.parse().map_err(|_| RolesFileError::Title)?;
    if version != VERSION {
        return Err(RolesFileError::Version { got: version });
    }
    let want = u32::from_str_radix(checksum, 16).map_err(|_| RolesFileError::Title)?;
    let got = crc32c(0, body.as_bytes());
    if got != want {
        return Err(RolesFileError::Checksum { got, want });
    }
    let mut roles = Roles::new("");
    roles.by_oid.remove(&BOOTSTRAP_SUPERUSER);
    roles.memberships.clear();
    for (index, line) in body.lines().enumerate() {
        let malformed = RolesFileError::Line { number: index + 2 };
        take_line(&mut roles, line).ok_or(malformed)?;
    }
    if is_consistent(&roles) { Ok(roles) } else { Err(RolesFileError::Inconsistent) }
}

fn take_line(roles: &mut Roles, line: &str) -> Option<()> {
    let words = words(line)?;
    match words.split_first()? {
        ((name, Some(value)), []) if name == "next_oid" => roles.next_oid = value.parse().ok()?,
        ((kind, None), rest) if kind == "role" => {
            let role = take_role(rest)?;
            if roles.by_oid.insert(role.oid, Arc::new(role)).is_some() {
                return None;
            }
        }
        ((kind, None), rest) if kind == "member" => roles.memberships.push(take_member(rest)?),
        _ => return None,
    }
    Some(())
}

fn take_role(words: &[Word]) -> Option<Role> {
    let mut role = Role { inherit: false, ..Role::new(0, String::new()) };
    for (name, value) in words {
        match (&**name, value) {
            ("oid", Some(value)) => role.oid = value.parse().ok()?,
            ("name", Some(value)) => role.name.clone_from(value),
            ("connection_limit", Some(value)) => role.connection_limit = value.parse().ok()?,
            ("password", Some(value)) => role.password = Some(value.to_string()),
            ("keeper", Some(value)) => {
                role.keeper = match &**value {
                    "upstream" => Keeper::Upstream,
                    "auth_file" => Keeper::AuthFile,
                    _ => return None,
                }
            }
            ("valid_until", Some(value)) => role.valid_until = Some(Timestamp(value.parse().ok()?)),
            (word, None) => {
                let (_, flag) = FLAGS.iter().find(|(flag, _)| *flag == word)?;
                *flag(&mut role) = true;
            }
            _ => return None,
        }
    }
    Some(role)
}

fn take_member(words: &[Word]) -> Option<Membership> {
    let mut it = Membership { role: 0, member: 0, grantor: 0, admin_option: false };
    for (name, value) in words {
        match (&**name, value) {
            ("role", Some(value)) => it.role = value.parse().ok()?,
            ("member", Some(value)) => it.member = value.parse().ok()?,
            ("grantor", Some(value)) => it.grantor = value.parse().ok()?,
            ("admin", None) => it.admin_option = true,
            _ => return None,
        }
    }
    Some(it)
}

/// Whether the invariants of [`Roles`] hold.
fn is_consistent(roles: &Roles) -> bool {
    let mut names: Vec<&str> = roles.iter().map(|role| &*role.name).collect();
    names.sort_unstable();
    let is_named = |role: &Role| !role.name.is_empty() && role.oid != 0;
    let is_own = |role: &Role| is_predefined(role.oid) || !is_reserved(&role.name);
    let is_whole = |it: &Membership| {
        roles.by_oid(it.role).is_some()
            && roles.by_oid(it.member).is_some()
            && it.role != predefined::PG_DATABASE_OWNER
            && !roles.is_member_of_nosuper(it.role, it.member)
    };
    roles.is_superuser(BOOTSTRAP_SUPERUSER)
        && names.windows(2).all(|pair| matches!(pair, [left, right] if left != right))
        && roles.iter().all(|role| is_named(role) && is_own(role))
        && roles.by_oid.len() <= ROLES_MAX + predefined::roles().count()
        && roles.memberships.len() <= MEMBERSHIPS_MAX
        && roles.memberships.iter().all(is_whole)
}
