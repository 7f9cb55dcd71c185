import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/**
 * pgjdbc: what tests/live/drivers.rs expects of a driver.
 *
 * <p>Run with host and port; prints "position CONTENT LSN" for messages whose place it was told.
 */
public final class Pgjdbc {
    private static final String EMIT = "select pg_logical_emit_message(?, 'driver', ?)";
    private static final String EMIT_BYTES =
            "select pg_logical_emit_message(true, 'driver', ?::bytea)";
    private static String url;

    interface Action {
        void run() throws SQLException;
    }

    static Connection connect(String... settings) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "postgres");
        for (int i = 0; i < settings.length; i += 2) {
            properties.setProperty(settings[i], settings[i + 1]);
        }
        return DriverManager.getConnection(url, properties);
    }

    static String emit(Connection connection, String content, boolean transactional)
            throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(EMIT)) {
            return emit(statement, content, transactional);
        }
    }

    static String emit(Connection connection, String content) throws SQLException {
        return emit(connection, content, true);
    }

    static String emit(PreparedStatement statement, String content, boolean transactional)
            throws SQLException {
        statement.setBoolean(1, transactional);
        statement.setString(2, content);
        try (ResultSet rows = statement.executeQuery()) {
            check(rows.next(), "no row");
            return rows.getString(1);
        }
    }

    static String one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), "no row");
            return rows.getString(1);
        }
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static void refused(String state, Action action) throws SQLException {
        try {
            action.run();
        } catch (SQLException error) {
            if (state.equals(error.getSQLState())) {
                return;
            }
            throw error;
        }
        throw new AssertionError("there should be error " + state);
    }

    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static void statements() throws SQLException {
        try (Connection connection = connect("ApplicationName", "pgjdbc")) {
            for (String content : new String[] {"autocommit 1", "autocommit 2"}) {
                System.out.println("position " + content + " " + emit(connection, content));
            }
            byte[] bytes = new byte[256];
            for (int i = 0; i < bytes.length; i++) {
                bytes[i] = (byte) i;
            }
            try (PreparedStatement statement = connection.prepareStatement(EMIT_BYTES)) {
                statement.setBytes(1, bytes);
                statement.executeQuery().close();
            }
            // From the fifth time on the driver uses a named statement and binary transfer.
            try (PreparedStatement statement = connection.prepareStatement(EMIT)) {
                for (int i = 0; i < 20; i++) {
                    check(emit(statement, "prepared " + i, true).contains("/"), "a position");
                }
            }
            emit(connection, "0123456789abcdef".repeat(640 * 1024));
            // pgjdbc has no batch of statements with results; many in one text are a pipeline.
            StringBuilder many = new StringBuilder();
            for (int i = 0; i < 1000; i++) {
                many.append("select pg_logical_emit_message(true, 'driver', 'pipelined ");
                many.append(i).append("');");
            }
            int results = 0;
            try (Statement statement = connection.createStatement()) {
                boolean more = statement.execute(many.toString());
                while (more) {
                    results++;
                    more = statement.getMoreResults();
                }
            }
            check(results == 1000, "results: " + results);
            check(connection.isValid(60), "valid");
        }
    }

    static void transactions() throws SQLException {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            emit(connection, "in transaction 1");
            emit(connection, "in transaction 2");
            connection.commit();
            emit(connection, "never");
            connection.rollback();
            emit(connection, "stays", false);
            emit(connection, "never");
            refused("42703", () -> one(connection, "select nothing"));
            refused("25P02", () -> emit(connection, "never"));
            connection.rollback();
            emit(connection, "outer block");
            Savepoint savepoint = connection.setSavepoint("inner block");
            emit(connection, "never");
            connection.rollback(savepoint);
            connection.releaseSavepoint(savepoint);
            connection.commit();
            connection.setAutoCommit(true);
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            check(connection.getTransactionIsolation() == Connection.TRANSACTION_SERIALIZABLE,
                    "isolation");
            emit(connection, "after the error");
            connection.setReadOnly(true);
            connection.setReadOnly(false);
            refused("0A000", () -> execute(connection, "listen channel"));
        }
    }

    static void settings() throws SQLException {
        try (Connection connection = connect("options", "-c synchronous_commit=local")) {
            check("local".equals(one(connection, "show synchronous_commit")), "options");
            execute(connection, "set synchronous_commit = off");
            connection.setAutoCommit(false);
            execute(connection, "set local synchronous_commit to remote_apply");
            check("remote_apply".equals(one(connection, "show synchronous_commit")), "set local");
            emit(connection, "set local");
            connection.commit();
            check("off".equals(one(connection, "show synchronous_commit")), "after the commit");
        }
    }

    static void copies() throws Exception {
        try (Connection connection = connect("preferQueryMode", "simple")) {
            CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder rows = new StringBuilder();
            for (int i = 0; i < 100; i++) {
                rows.append("driver\tcopied ").append(i).append('\n');
            }
            byte[] bytes = rows.toString().getBytes(StandardCharsets.UTF_8);
            long copied = copy.copyIn("copy walhub.messages (prefix, content) from stdin",
                    new ByteArrayInputStream(bytes));
            check(copied == 100, "copied: " + copied);
            // Simple query mode writes the parameters into the text.
            emit(connection, "simple");
        }
    }

    public static void main(String[] arguments) throws Exception {
        url = "jdbc:postgresql://" + arguments[0] + ":" + arguments[1] + "/postgres";
        statements();
        transactions();
        settings();
        copies();
    }
}
