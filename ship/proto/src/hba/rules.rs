//! pg_hba.conf: its rules, and what is wrong with it.
//!
//! PostgreSQL: `load_hba` (src/backend/libpq/hba.c), `fill_hba_view` (src/backend/utils/adt/hbafuncs.c).

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Files;
use super::address::Addresses;
use super::fault::{Fault, Remark};
use super::lines;
use super::name::Name;
use super::rule::{self, Possible, Rule};

/// The rules of a file without faults, in its order.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Arc<Rule>>,
}

/// A line of a file, as `pg_hba_file_rules` shows it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number among the rules without fault.
    pub number: Option<u32>,
    /// The file that it is in.
    pub file: String,
    /// The line that it begins in.
    pub line: u32,
    /// The rule, where it is one.
    pub rule: Option<Rule>,
    /// What is wrong with it.
    pub fault: Option<String>,
}

impl Rules {
    /// Reads the file at `path`, with what there is to say about it; `tls` is whether there are connections over TLS.
    ///
    /// There are no rules when any line has a fault, or there is no line.
    pub fn load(files: &dyn Files, path: &str, tls: bool) -> (Option<Self>, Vec<Remark>) {
        let mut remarks = Vec::new();
        let Ok(lines) = lines::read(files, path, &mut remarks) else { return (None, remarks) };
        let mut is_whole = true;
        let mut rules = Vec::new();
        for line in &lines {
            // It was remarked when it was read.
            if line.fault.is_some() {
                is_whole = false;
                continue;
            }
            let fault = match rule::parse(line, Possible { tls }) {
                Ok((rule, fault)) => {
                    rules.push(Arc::new(rule));
                    fault
                }
                Err(fault) => {
                    is_whole = false;
                    Some(fault)
                }
            };
            remarks.extend(fault.map(|fault| fault.at(&line.file, line.number)));
        }
        if is_whole && rules.is_empty() {
            is_whole = false;
            let fault = Fault::new(format!("configuration file \"{path}\" contains no entries"));
            remarks.push(Remark { context: None, ..fault.at(path, 0) });
        }
        (is_whole.then_some(Self { rules }), remarks)
    }

    /// Every line of the file at `path`, for `pg_hba_file_rules`.
    ///
    /// # Errors
    /// When the file itself cannot be opened.
    pub fn rows(files: &dyn Files, path: &str, tls: bool) -> Result<Vec<Row>, String> {
        let mut number = 0;
        let lines = lines::read(files, path, &mut Vec::new())?;
        let rows = lines.into_iter().map(|line| {
            let (rule, fault) = match (&line.fault, rule::parse(&line, Possible { tls })) {
                (Some(fault), _) => (None, Some(fault.clone())),
                (None, Ok((rule, fault))) => (Some(rule), fault.map(|fault| fault.message)),
                (None, Err(fault)) => (None, Some(fault.message)),
            };
            number += u32::from(fault.is_none());
            let number = fault.is_none().then_some(number);
            Row { number, file: line.file, line: line.number, rule, fault }
        });
        Ok(rows.collect())
    }

    /// The rules, first match first.
    #[must_use]
    pub fn as_slice(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Whether a rule asks which addresses this machine has.
    #[must_use]
    pub fn need_interfaces(&self) -> bool {
        let needs = |rule: &Arc<Rule>| {
            matches!(rule.addresses, Some(Addresses::SameHost | Addresses::SameNet))
        };
        self.rules.iter().any(needs)
    }

    /// Whether who is a member of what matters.
    #[must_use]
    pub fn need_members(&self) -> bool {
        let mut names = self.rules.iter().flat_map(|rule| rule.databases.iter().chain(&rule.users));
        names.any(Name::is_group)
    }
}
