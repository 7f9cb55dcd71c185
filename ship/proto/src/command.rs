//! Replication commands: what a walsender is asked to do.
//!
//! The words are PostgreSQL's of every release from 13 to 18 at once, so the older spellings of
//! slot and backup options are understood beside the newer ones. A keyword is taken in any case
//! where a keyword is expected; PostgreSQL takes it in upper case only, so every command it
//! accepts means the same here.
//!
//! Not here: carrying a command out (the daemon's `replication`).
//!
//! PostgreSQL: src/backend/replication/repl_gram.y, repl_scanner.l.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::lsn::{Lsn, TimelineId};

mod error;
mod options;
mod scan;

pub use error::CommandError;
pub use options::{
    LogicalSlotOptions, SnapshotAction, logical_slot_options, physical_slot_reserves_wal,
};
use scan::{Scanner, Token};

/// Bytes of a name, its terminating zero included. PostgreSQL: `NAMEDATALEN`.
pub const NAME_DATA_LEN: usize = 64;

/// A name of any length, cut to what a name can have. PostgreSQL: `truncate_identifier`.
#[must_use]
pub fn truncate_name(mut name: String) -> String {
    if name.len() >= NAME_DATA_LEN {
        let mut end = NAME_DATA_LEN - 1;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
    }
    name
}

/// A command that was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// IDENTIFY_SYSTEM.
    IdentifySystem,
    /// SHOW name.
    Show {
        /// Setting, folded to lower case unless it was quoted.
        name: String,
    },
    /// TIMELINE_HISTORY n.
    TimelineHistory {
        /// The timeline whose history file is asked for.
        timeline: TimelineId,
    },
    /// START_REPLICATION \[SLOT name\] \[PHYSICAL\] X/X \[TIMELINE n\].
    StartReplication {
        /// Slot to stream from.
        slot: Option<String>,
        /// The first position that the standby wants.
        start: Lsn,
        /// The timeline to stream; `None` is the newest.
        timeline: Option<TimelineId>,
    },
    /// START_REPLICATION SLOT name LOGICAL X/X \[(options)\].
    StartLogicalReplication {
        /// Slot to decode from.
        slot: String,
        /// The position to begin at; the slot's own counts when that is further.
        start: Lsn,
        /// For the output plugin, not checked yet.
        options: Vec<CommandOption>,
    },
    /// CREATE_REPLICATION_SLOT name \[TEMPORARY\] PHYSICAL | LOGICAL plugin \[options\].
    CreateReplicationSlot {
        /// Name, not validated yet.
        slot: String,
        /// Dropped at the end of the session.
        temporary: bool,
        /// Output plugin of a logical slot; `None` for a physical one.
        plugin: Option<String>,
        /// Options, not checked yet.
        options: Vec<CommandOption>,
    },
    /// DROP_REPLICATION_SLOT name \[WAIT\].
    DropReplicationSlot {
        /// Name of the slot.
        slot: String,
        /// Wait until the slot is free.
        wait: bool,
    },
    /// READ_REPLICATION_SLOT name.
    ReadReplicationSlot {
        /// Name of the slot.
        slot: String,
    },
    /// ALTER_REPLICATION_SLOT name (options).
    AlterReplicationSlot {
        /// Name of the slot.
        slot: String,
        /// Options, not checked yet.
        options: Vec<CommandOption>,
    },
    /// UPLOAD_MANIFEST.
    UploadManifest,
    /// BASE_BACKUP \[options\].
    BaseBackup {
        /// Options, not checked yet.
        options: Vec<CommandOption>,
    },
}

impl Command {
    /// The tag of its CommandComplete.
    #[must_use]
    pub const fn tag(&self) -> &'static str {
        match self {
            Self::IdentifySystem => "IDENTIFY_SYSTEM",
            Self::Show { .. } => "SHOW",
            Self::TimelineHistory { .. } => "TIMELINE_HISTORY",
            Self::StartReplication { .. } | Self::StartLogicalReplication { .. } => {
                "START_REPLICATION"
            }
            Self::CreateReplicationSlot { .. } => "CREATE_REPLICATION_SLOT",
            Self::DropReplicationSlot { .. } => "DROP_REPLICATION_SLOT",
            Self::ReadReplicationSlot { .. } => "READ_REPLICATION_SLOT",
            Self::AlterReplicationSlot { .. } => "ALTER_REPLICATION_SLOT",
            Self::UploadManifest => "UPLOAD_MANIFEST",
            Self::BaseBackup { .. } => "BASE_BACKUP",
        }
    }
}

/// One option of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandOption {
    /// Name of the option, folded unless it was quoted.
    pub name: String,
    /// What was given for it.
    pub value: OptionValue,
}

/// What was written after an option's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionValue {
    /// The option's name alone.
    Absent,
    /// A name or a quoted string.
    Text(String),
    /// An unsigned number.
    Integer(u32),
}

/// Parses one command; `Ok(None)` when the text does not begin like one, so it may be SQL.
///
/// # Errors
/// When it begins like a replication command and goes on wrong.
pub fn parse(text: &str) -> Result<Option<Command>, CommandError> {
    let mut parser = Parser { scanner: Scanner::new(text), peeked: None };
    let Some(Token::Word(first)) = parser.next()? else { return Ok(None) };
    let Some(verb) = Verb::of(first) else { return Ok(None) };
    let command = parser.command(verb)?;
    parser.accept(Token::Other(';'))?;
    match parser.next()? {
        None => Ok(Some(command)),
        Some(_) => Err(CommandError::Syntax),
    }
}

/// Checks a slot's name. PostgreSQL: `ReplicationSlotValidateName`.
///
/// # Errors
/// [`CommandError::SlotNameTooShort`] and its neighbours.
pub fn validate_slot_name(name: &str) -> Result<(), CommandError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() {
        Err(CommandError::SlotNameTooShort(name.into()))
    } else if name.len() >= NAME_DATA_LEN {
        Err(CommandError::SlotNameTooLong(name.into()))
    } else if name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(CommandError::SlotNameCharacter(name.into()))
    }
}

#[derive(Clone, Copy)]
enum Verb {
    IdentifySystem,
    Show,
    TimelineHistory,
    StartReplication,
    CreateReplicationSlot,
    DropReplicationSlot,
    ReadReplicationSlot,
    AlterReplicationSlot,
    UploadManifest,
    BaseBackup,
}

impl Verb {
    /// PostgreSQL: `replication_scanner_is_replication_command`.
    fn of(word: &str) -> Option<Self> {
        const VERBS: [(&str, Verb); 10] = [
            ("IDENTIFY_SYSTEM", Verb::IdentifySystem),
            ("SHOW", Verb::Show),
            ("TIMELINE_HISTORY", Verb::TimelineHistory),
            ("START_REPLICATION", Verb::StartReplication),
            ("CREATE_REPLICATION_SLOT", Verb::CreateReplicationSlot),
            ("DROP_REPLICATION_SLOT", Verb::DropReplicationSlot),
            ("READ_REPLICATION_SLOT", Verb::ReadReplicationSlot),
            ("ALTER_REPLICATION_SLOT", Verb::AlterReplicationSlot),
            ("UPLOAD_MANIFEST", Verb::UploadManifest),
            ("BASE_BACKUP", Verb::BaseBackup),
        ];
        VERBS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|&(_, verb)| verb)
    }
}

/// Words that are no names unless they are quoted or in lower case.
const KEYWORDS: [&str; 21] = [
    "BASE_BACKUP",
    "IDENTIFY_SYSTEM",
    "READ_REPLICATION_SLOT",
    "SHOW",
    "START_REPLICATION",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "ALTER_REPLICATION_SLOT",
    "TIMELINE_HISTORY",
    "WAIT",
    "TIMELINE",
    "PHYSICAL",
    "LOGICAL",
    "SLOT",
    "RESERVE_WAL",
    "TEMPORARY",
    "TWO_PHASE",
    "EXPORT_SNAPSHOT",
    "NOEXPORT_SNAPSHOT",
    "USE_SNAPSHOT",
    "UPLOAD_MANIFEST",
];

struct Parser<'a> {
    scanner: Scanner<'a>,
    peeked: Option<Option<Token<'a>>>,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, CommandError> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.scanner.next(),
        }
    }

    fn peek(&mut self) -> Result<Option<&Token<'a>>, CommandError> {
        if self.peeked.is_none() {
            self.peeked = Some(self.scanner.next()?);
        }
        Ok(self.peeked.as_ref().and_then(Option::as_ref))
    }

    fn accept(&mut self, wanted: Token<'_>) -> Result<bool, CommandError> {
        let found = self.peek()? == Some(&wanted);
        if found {
            self.peeked = None;
        }
        Ok(found)
    }

    fn expect(&mut self, wanted: Token<'_>) -> Result<(), CommandError> {
        if self.accept(wanted)? { Ok(()) } else { Err(CommandError::Syntax) }
    }

    fn accept_keyword(&mut self, keyword: &str) -> Result<bool, CommandError> {
        let found =
            matches!(self.peek()?, Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        if found {
            self.peeked = None;
        }
        Ok(found)
    }

    fn name(&mut self) -> Result<String, CommandError> {
        match self.next()? {
            Some(Token::Word(word)) if !KEYWORDS.contains(&word) => Ok(scan::fold(word)),
            Some(Token::QuotedName(name)) => Ok(name),
            Some(
                Token::Word(_)
                | Token::Text(_)
                | Token::Number(_)
                | Token::Lsn(_)
                | Token::Other(_),
            )
            | None => Err(CommandError::Syntax),
        }
    }

    fn dotted_name(&mut self) -> Result<String, CommandError> {
        let mut name = self.name()?;
        while self.accept(Token::Other('.'))? {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    fn lsn(&mut self) -> Result<Lsn, CommandError> {
        if let Some(Token::Lsn(lsn)) = self.next()? { Ok(lsn) } else { Err(CommandError::Syntax) }
    }

    fn number(&mut self) -> Result<u32, CommandError> {
        match self.next()? {
            Some(Token::Number(number)) => Ok(number),
            Some(_) | None => Err(CommandError::Syntax),
        }
    }

    fn text(&mut self) -> Result<String, CommandError> {
        match self.next()? {
            Some(Token::Text(text)) => Ok(text),
            Some(_) | None => Err(CommandError::Syntax),
        }
    }

    fn timeline(&mut self) -> Result<TimelineId, CommandError> {
        TimelineId::new(self.number()?).ok_or(CommandError::InvalidTimeline)
    }

    fn command(&mut self, verb: Verb) -> Result<Command, CommandError> {
        Ok(match verb {
            Verb::IdentifySystem => Command::IdentifySystem,
            Verb::Show => Command::Show { name: self.dotted_name()? },
            Verb::TimelineHistory => Command::TimelineHistory { timeline: self.timeline()? },
            Verb::StartReplication => self.start_replication()?,
            Verb::CreateReplicationSlot => self.create_replication_slot()?,
            Verb::DropReplicationSlot => Command::DropReplicationSlot {
                slot: self.name()?,
                wait: self.accept_keyword("WAIT")?,
            },
            Verb::ReadReplicationSlot => Command::ReadReplicationSlot { slot: self.dotted_name()? },
            Verb::AlterReplicationSlot => {
                let slot = self.name()?;
                self.expect(Token::Other('('))?;
                Command::AlterReplicationSlot { slot, options: self.option_list()? }
            }
            Verb::UploadManifest => Command::UploadManifest,
            Verb::BaseBackup => Command::BaseBackup {
                options: if self.accept(Token::Other('('))? {
                    self.option_list()?
                } else {
                    self.legacy_backup_options()?
                },
            },
        })
    }

    fn start_replication(&mut self) -> Result<Command, CommandError> {
        let slot = if self.accept_keyword("SLOT")? { Some(self.name()?) } else { None };
        if self.accept_keyword("LOGICAL")? {
            let slot = slot.ok_or(CommandError::Syntax)?;
            let start = self.lsn()?;
            let options =
                if self.accept(Token::Other('('))? { self.plugin_options()? } else { Vec::new() };
            return Ok(Command::StartLogicalReplication { slot, start, options });
        }
        self.accept_keyword("PHYSICAL")?;
        let start = self.lsn()?;
        let timeline = if self.accept_keyword("TIMELINE")? { Some(self.timeline()?) } else { None };
        Ok(Command::StartReplication { slot, start, timeline })
    }

    fn create_replication_slot(&mut self) -> Result<Command, CommandError> {
        let slot = self.name()?;
        let temporary = self.accept_keyword("TEMPORARY")?;
        let plugin = if self.accept_keyword("PHYSICAL")? {
            None
        } else if self.accept_keyword("LOGICAL")? {
            Some(self.name()?)
        } else {
            return Err(CommandError::Syntax);
        };
        let options = if self.accept(Token::Other('('))? {
            self.option_list()?
        } else {
            self.legacy_slot_options()?
        };
        Ok(Command::CreateReplicationSlot { slot, temporary, plugin, options })
    }

    /// Options in parentheses, the opening one read.
    fn option_list(&mut self) -> Result<Vec<CommandOption>, CommandError> {
        let mut options = Vec::new();
        loop {
            let name = match self.next()? {
                // The grammar of PostgreSQL leaves this one keyword out of `ident_or_keyword`.
                Some(Token::Word("READ_REPLICATION_SLOT")) => return Err(CommandError::Syntax),
                Some(Token::Word(word)) => scan::fold(word),
                Some(Token::QuotedName(name)) => name,
                Some(Token::Text(_) | Token::Number(_) | Token::Lsn(_) | Token::Other(_))
                | None => return Err(CommandError::Syntax),
            };
            let value = match self.peek()? {
                Some(Token::Number(_)) => OptionValue::Integer(self.number()?),
                Some(Token::Text(_)) => OptionValue::Text(self.text()?),
                Some(Token::Word(_) | Token::QuotedName(_)) => OptionValue::Text(self.name()?),
                Some(Token::Lsn(_) | Token::Other(_)) | None => OptionValue::Absent,
            };
            options.push(CommandOption { name, value });
            if self.accept(Token::Other(')'))? {
                return Ok(options);
            }
            self.expect(Token::Other(','))?;
        }
    }

    /// Options for an output plugin, the opening parenthesis read. PostgreSQL: `plugin_opt_list`.
    fn plugin_options(&mut self) -> Result<Vec<CommandOption>, CommandError> {
        let mut options = Vec::new();
        loop {
            let name = self.name()?;
            let value = match self.peek()? {
                Some(Token::Text(_)) => OptionValue::Text(self.text()?),
                Some(_) | None => OptionValue::Absent,
            };
            options.push(CommandOption { name, value });
            if self.accept(Token::Other(')'))? {
                return Ok(options);
            }
            self.expect(Token::Other(','))?;
        }
    }

    /// PostgreSQL: `create_slot_legacy_opt_list`, the form before release 15.
    fn legacy_slot_options(&mut self) -> Result<Vec<CommandOption>, CommandError> {
        const WORDS: [(&str, &str, Option<&str>); 5] = [
            ("EXPORT_SNAPSHOT", "snapshot", Some("export")),
            ("NOEXPORT_SNAPSHOT", "snapshot", Some("nothing")),
            ("USE_SNAPSHOT", "snapshot", Some("use")),
            ("RESERVE_WAL", "reserve_wal", None),
            ("TWO_PHASE", "two_phase", None),
        ];
        let mut options = Vec::new();
        'option: loop {
            for (word, name, value) in WORDS {
                if self.accept_keyword(word)? {
                    let value =
                        value.map_or(OptionValue::Absent, |value| OptionValue::Text(value.into()));
                    options.push(CommandOption { name: name.into(), value });
                    continue 'option;
                }
            }
            return Ok(options);
        }
    }

    /// PostgreSQL: `base_backup_legacy_opt_list`, the form before release 15.
    fn legacy_backup_options(&mut self) -> Result<Vec<CommandOption>, CommandError> {
        const BARE: [&str; 6] =
            ["PROGRESS", "FAST", "WAL", "NOWAIT", "TABLESPACE_MAP", "NOVERIFY_CHECKSUMS"];
        const WITH_TEXT: [&str; 3] = ["LABEL", "MANIFEST", "MANIFEST_CHECKSUMS"];
        let mut options = Vec::new();
        while let Some(Token::Word(word)) = self.peek()? {
            let is = |keyword: &&str| keyword.eq_ignore_ascii_case(word);
            let name = scan::fold(word);
            let (bare, with_text) = (BARE.iter().any(is), WITH_TEXT.iter().any(is));
            self.peeked = None;
            let value = if bare {
                OptionValue::Absent
            } else if with_text {
                OptionValue::Text(self.text()?)
            } else if name == "max_rate" {
                OptionValue::Integer(self.number()?)
            } else {
                return Err(CommandError::Syntax);
            };
            options.push(CommandOption { name, value });
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests;
