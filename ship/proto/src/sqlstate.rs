//! SQLSTATE codes that walhub sends or acts on.
//!
//! PostgreSQL: src/backend/utils/errcodes.txt.

/// Five characters that say what kind of error it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqlState(pub &'static str);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState { $($(#[$doc])* pub const $name: Self = Self($code);)* }
    };
}

states! {
    /// successful_completion
    SUCCESSFUL_COMPLETION = "00000";
    /// warning
    WARNING = "01000";
    /// connection_failure
    CONNECTION_FAILURE = "08006";
    /// protocol_violation
    PROTOCOL_VIOLATION = "08P01";
    /// feature_not_supported
    FEATURE_NOT_SUPPORTED = "0A000";
    /// numeric_value_out_of_range
    NUMERIC_VALUE_OUT_OF_RANGE = "22003";
    /// invalid_regular_expression
    INVALID_REGULAR_EXPRESSION = "2201B";
    /// invalid_parameter_value
    INVALID_PARAMETER_VALUE = "22023";
    /// invalid_text_representation
    INVALID_TEXT_REPRESENTATION = "22P02";
    /// character_not_in_repertoire
    CHARACTER_NOT_IN_REPERTOIRE = "22021";
    /// invalid_sql_statement_name
    INVALID_SQL_STATEMENT_NAME = "26000";
    /// invalid_cursor_name
    INVALID_CURSOR_NAME = "34000";
    /// read_only_sql_transaction
    READ_ONLY_SQL_TRANSACTION = "25006";
    /// in_failed_sql_transaction
    IN_FAILED_SQL_TRANSACTION = "25P02";
    /// invalid_authorization_specification
    INVALID_AUTHORIZATION_SPECIFICATION = "28000";
    /// invalid_password
    INVALID_PASSWORD = "28P01";
    /// dependent_objects_still_exist
    DEPENDENT_OBJECTS_STILL_EXIST = "2BP01";
    /// invalid_grant_operation
    INVALID_GRANT_OPERATION = "0LP01";
    /// insufficient_privilege
    INSUFFICIENT_PRIVILEGE = "42501";
    /// syntax_error
    SYNTAX_ERROR = "42601";
    /// invalid_name
    INVALID_NAME = "42602";
    /// name_too_long
    NAME_TOO_LONG = "42622";
    /// undefined_column
    UNDEFINED_COLUMN = "42703";
    /// undefined_object
    UNDEFINED_OBJECT = "42704";
    /// duplicate_object
    DUPLICATE_OBJECT = "42710";
    /// undefined_table
    UNDEFINED_TABLE = "42P01";
    /// undefined_function
    UNDEFINED_FUNCTION = "42883";
    /// duplicate_prepared_statement
    DUPLICATE_PREPARED_STATEMENT = "42P05";
    /// reserved_name
    RESERVED_NAME = "42939";
    /// datatype_mismatch
    DATATYPE_MISMATCH = "42804";
    /// insufficient_resources
    INSUFFICIENT_RESOURCES = "53000";
    /// disk_full
    DISK_FULL = "53100";
    /// out_of_memory
    OUT_OF_MEMORY = "53200";
    /// too_many_connections
    TOO_MANY_CONNECTIONS = "53300";
    /// configuration_limit_exceeded
    CONFIGURATION_LIMIT_EXCEEDED = "53400";
    /// program_limit_exceeded
    PROGRAM_LIMIT_EXCEEDED = "54000";
    /// object_not_in_prerequisite_state
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    /// object_in_use
    OBJECT_IN_USE = "55006";
    /// cant_change_runtime_param
    CANT_CHANGE_RUNTIME_PARAM = "55P02";
    /// query_canceled
    QUERY_CANCELED = "57014";
    /// admin_shutdown
    ADMIN_SHUTDOWN = "57P01";
    /// crash_shutdown
    CRASH_SHUTDOWN = "57P02";
    /// cannot_connect_now
    CANNOT_CONNECT_NOW = "57P03";
    /// io_error
    IO_ERROR = "58030";
    /// undefined_file
    UNDEFINED_FILE = "58P01";
    /// config_file_error
    CONFIG_FILE_ERROR = "F0000";
    /// lock_file_exists
    LOCK_FILE_EXISTS = "F0001";
    /// internal_error
    INTERNAL_ERROR = "XX000";
    /// data_corrupted
    DATA_CORRUPTED = "XX001";
}
