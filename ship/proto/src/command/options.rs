//! Options of CREATE_REPLICATION_SLOT.

use alloc::format;

use super::{CommandError, CommandOption, OptionValue};

/// Whether the options of a physical slot ask for RESERVE_WAL.
///
/// PostgreSQL: `parseCreateReplSlotOptions`.
///
/// # Errors
/// When an option is unknown, given twice, or one of logical slots.
pub fn physical_slot_reserves_wal(options: &[CommandOption]) -> Result<bool, CommandError> {
    let mut reserve_wal = None;
    for option in options {
        match option.name.as_str() {
            "reserve_wal" if reserve_wal.is_none() => reserve_wal = Some(option.boolean()?),
            "reserve_wal" | "snapshot" | "two_phase" | "failover" => {
                return Err(CommandError::ConflictingOptions);
            }
            _ => return Err(CommandError::UnrecognizedOption(option.name.clone())),
        }
    }
    Ok(reserve_wal.unwrap_or(false))
}

/// What becomes of the snapshot that a logical slot begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SnapshotAction {
    /// Others may take it up. PostgreSQL: `CRS_EXPORT_SNAPSHOT`.
    #[default]
    Export,
    /// `nothing`: no snapshot.
    Nothing,
    /// It becomes that of the transaction.
    Use,
}

/// Options of a logical slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogicalSlotOptions {
    /// What becomes of its snapshot.
    pub snapshot: SnapshotAction,
    /// Decodes transactions when they are prepared.
    pub two_phase: bool,
    /// Is kept on standbys too.
    pub failover: bool,
}

/// Checks the options of a logical slot. PostgreSQL: `parseCreateReplSlotOptions`.
///
/// # Errors
/// When an option is unknown, given twice, wrong, or one of physical slots.
pub fn logical_slot_options(options: &[CommandOption]) -> Result<LogicalSlotOptions, CommandError> {
    let (mut snapshot, mut two_phase, mut failover) = (None, None, None);
    for option in options {
        match option.name.as_str() {
            "snapshot" if snapshot.is_none() => snapshot = Some(option.snapshot_action()?),
            "two_phase" if two_phase.is_none() => two_phase = Some(option.boolean()?),
            "failover" if failover.is_none() => failover = Some(option.boolean()?),
            "reserve_wal" | "snapshot" | "two_phase" | "failover" => {
                return Err(CommandError::ConflictingOptions);
            }
            _ => return Err(CommandError::UnrecognizedOption(option.name.clone())),
        }
    }
    Ok(LogicalSlotOptions {
        snapshot: snapshot.unwrap_or_default(),
        two_phase: two_phase.unwrap_or_default(),
        failover: failover.unwrap_or_default(),
    })
}

impl CommandOption {
    fn snapshot_action(&self) -> Result<SnapshotAction, CommandError> {
        let text = match &self.value {
            OptionValue::Absent => return Err(CommandError::RequiresParameter(self.name.clone())),
            OptionValue::Text(text) => text.clone(),
            OptionValue::Integer(number) => format!("{number}"),
        };
        match text.as_str() {
            "export" => Ok(SnapshotAction::Export),
            "nothing" => Ok(SnapshotAction::Nothing),
            "use" => Ok(SnapshotAction::Use),
            _ => Err(CommandError::UnrecognizedValue { name: self.name.clone(), value: text }),
        }
    }

    /// PostgreSQL: `defGetBoolean`.
    fn boolean(&self) -> Result<bool, CommandError> {
        let any =
            |words: [&str; 2], text: &str| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        match &self.value {
            OptionValue::Absent | OptionValue::Integer(1) => Ok(true),
            OptionValue::Integer(0) => Ok(false),
            OptionValue::Text(text) if any(["true", "on"], text) => Ok(true),
            OptionValue::Text(text) if any(["false", "off"], text) => Ok(false),
            OptionValue::Text(_) | OptionValue::Integer(_) => {
                Err(CommandError::NotBoolean(self.name.clone()))
            }
        }
    }
}
