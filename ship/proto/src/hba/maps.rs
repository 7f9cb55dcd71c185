//! pg_ident.conf: which names that the system or a certificate gives may be which roles.
//!
//! PostgreSQL: `load_ident`, `parse_ident_line`, `check_ident_usermap`, `check_usermap` (src/backend/libpq/hba.c).

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::fault::{Fault, Remark};
use super::lines::{self, Line};
use super::name::Name;
use super::token::Token;
use super::{Files, Membership};

/// The entries of a file without faults, in its order.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    entries: Vec<Entry>,
}

/// PostgreSQL: `IdentLine`.
#[derive(Clone, Debug)]
struct Entry {
    map: String,
    system_user: Name,
    role: Name,
}

/// A line of a file, as `pg_ident_file_mappings` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEntry {
    /// Its number among the entries without fault.
    pub number: Option<u32>,
    /// The file that it is in.
    pub file: String,
    /// The line that it begins in.
    pub line: u32,
    /// Map, name of the system, role; none where there is a fault.
    pub names: Option<[String; 3]>,
    /// What is wrong with it.
    pub fault: Option<String>,
}

/// Why somebody may not be a role: for the log alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapRefusal {
    /// There is no map, and the names differ.
    Differ {
        /// The role that is asked for.
        role: String,
        /// The name of the system.
        system_user: String,
    },
    /// No entry of the map is for both names.
    NoMatch {
        /// The map.
        map: String,
        /// The role that is asked for.
        role: String,
        /// The name of the system.
        system_user: String,
    },
    /// The role has a `\1`, and the regular expression nothing that it could stand for.
    NoSubexpression {
        /// The regular expression.
        pattern: String,
        /// The role of the entry.
        role: String,
    },
}

impl Maps {
    /// Reads the file at `path`, with what there is to say about it. There are no maps when any line has a fault.
    pub fn load(files: &dyn Files, path: &str) -> (Option<Self>, Vec<Remark>) {
        let mut remarks = Vec::new();
        let Ok(lines) = lines::read(files, path, &mut remarks) else { return (None, remarks) };
        let mut is_whole = true;
        let mut entries = Vec::new();
        for line in lines {
            if line.fault.is_some() {
                is_whole = false;
                continue;
            }
            match Entry::parse(&line) {
                Ok(entry) => entries.push(entry),
                Err(fault) => {
                    is_whole = false;
                    remarks.push(fault.at(&line.file, line.number));
                }
            }
        }
        (is_whole.then_some(Self { entries }), remarks)
    }

    /// Every line of the file at `path`, for `pg_ident_file_mappings`.
    ///
    /// # Errors
    /// When the file itself cannot be opened.
    pub fn rows(files: &dyn Files, path: &str) -> Result<Vec<MapEntry>, String> {
        let mut number = 0;
        let lines = lines::read(files, path, &mut Vec::new())?;
        let rows = lines.into_iter().map(|line| {
            let (names, fault) = match (&line.fault, Entry::parse(&line)) {
                (Some(fault), _) => (None, Some(fault.clone())),
                (None, Ok(Entry { map, system_user, role })) => {
                    let names = [map, system_user.text().to_owned(), role.text().to_owned()];
                    (Some(names), None)
                }
                (None, Err(fault)) => (None, Some(fault.message)),
            };
            number += u32::from(fault.is_none());
            let number = fault.is_none().then_some(number);
            MapEntry { number, file: line.file, line: line.number, names, fault }
        });
        Ok(rows.collect())
    }

    /// Whether `system_user` may be `role`, by that map; without one, when they are called the same.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        map: Option<&str>,
        system_user: &str,
        role: &str,
        members: &dyn Membership,
    ) -> Result<(), MapRefusal> {
        let (role_asked, system_user_asked) = (role.to_owned(), system_user.to_owned());
        let Some(map) = map.filter(|map| !map.is_empty()) else {
            let refusal = MapRefusal::Differ { role: role_asked, system_user: system_user_asked };
            return if role == system_user { Ok(()) } else { Err(refusal) };
        };
        for entry in self.entries.iter().filter(|entry| entry.map == map) {
            if entry.matches(system_user, role, members)? {
                return Ok(());
            }
        }
        let (role, system_user) = (role_asked, system_user_asked);
        Err(MapRefusal::NoMatch { map: map.to_owned(), role, system_user })
    }
}

impl Entry {
    fn parse(line: &Line) -> Result<Self, Fault> {
        let mut fields = line.fields.iter();
        let mut next = || match fields.next().map(Vec::as_slice) {
            Some([token]) => Ok::<&Token, Fault>(token),
            Some(_) => Err(Fault::new("multiple values in ident field")),
            None => Err(Fault::new("missing entry at end of line")),
        };
        let (map, system_user, role) = (next()?, next()?, next()?);
        Ok(Self {
            map: map.text.clone(),
            system_user: Name::parse(system_user.clone())?,
            role: Name::parse(role.clone())?,
        })
    }

    fn matches(
        &self,
        system_user: &str,
        role: &str,
        members: &dyn Membership,
    ) -> Result<bool, MapRefusal> {
        let Some(pattern) = self.system_user.pattern() else {
            return Ok(
                self.system_user.matches(system_user) && self.role.matches_role(role, members)
            );
        };
        let Some(captured) = pattern.captures(system_user) else { return Ok(false) };
        let wanted = self.role.text();
        match wanted.split_once("\\1").filter(|_| self.role.pattern().is_none()) {
            Some((before, after)) => {
                let Some(captured) = captured.first_group else {
                    let (pattern, role) = (pattern.text().to_owned(), wanted.to_owned());
                    return Err(MapRefusal::NoSubexpression { pattern, role });
                };
                // What was made so has no other meaning than that of a name.
                let name = [before, captured, after].concat();
                Ok(Name::literal(name).matches_role(role, members))
            }
            None => Ok(self.role.matches_role(role, members)),
        }
    }
}

impl fmt::Display for MapRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differ { role, system_user } => write!(
                f,
                "provided user name ({role}) and authenticated user name ({system_user}) do not match"
            ),
            Self::NoMatch { map, role, system_user } => write!(
                f,
                "no match in usermap \"{map}\" for user \"{role}\" authenticated as \"{system_user}\""
            ),
            Self::NoSubexpression { pattern, role } => write!(
                f,
                "regular expression \"{pattern}\" has no subexpressions as requested by backreference in \"{role}\""
            ),
        }
    }
}

impl core::error::Error for MapRefusal {}
