//! What a test's stand-in for the hub says where the test does not look: nothing runs, nothing waits, and
//! nothing can be appended.

/// Methods of `walhub_hub::api::hub::Hub`, by name.
macro_rules! quiet {
    ($($method:ident)*) => { $(quiet!(@ $method);)* };
    (@ views) => {
        fn commit_latency(&self) -> Vec<walhub_hub::publish::latency::LatencyRow> {
            Vec::new()
        }

        fn reset_commit_latency(&self) {}

        fn core_stats(&self) -> Vec<walhub_hub::api::hub::CoreStatsRow> {
            Vec::new()
        }

        fn wal_reader(&self) -> Option<walhub_hub::store::wal_reader::WalReader> {
            None
        }
    };
    (@ streams) => {
        fn slot(
            &self,
            _: walhub_hub::api::hub::SlotRequest,
        ) -> tokio::sync::oneshot::Receiver<
            Result<Option<walhub_hub::api::hub::SlotRow>, walhub_proto::wire::backend::Report>,
        > {
            tokio::sync::oneshot::channel().1
        }

        fn start(
            &self,
            _: Box<walhub_hub::api::hub::StartStreaming<std::os::fd::OwnedFd>>,
        ) -> tokio::sync::oneshot::Receiver<walhub_hub::api::hub::StreamEnd<std::os::fd::OwnedFd>>
        {
            tokio::sync::oneshot::channel().1
        }

        fn timeline_history(
            &self,
            _: walhub_proto::lsn::TimelineId,
        ) -> std::io::Result<Option<Vec<u8>>> {
            Ok(None)
        }

        fn history(&self) -> Option<walhub_proto::history::TimelineHistory> {
            None
        }

        fn is_stopping(&self) -> bool {
            false
        }
    };
    (@ end_stream) => {
        fn end_stream(&self, _: u32, _: walhub_proto::wire::backend::Report) {}
    };
    (@ append) => {
        fn append(
            &self,
            _: walhub_hub::api::append::Append,
        ) -> walhub_hub::api::append::AppendAnswer {
            let command = "pg_logical_emit_message()";
            $crate::quiet_hub::answered(Err(walhub_hub::api::append::in_recovery(command)))
        }

        fn wal(
            &self,
            request: walhub_hub::api::append::WalRequest,
        ) -> tokio::sync::oneshot::Receiver<
            Result<walhub_proto::lsn::Lsn, walhub_proto::wire::backend::Report>,
        > {
            let command = request.command();
            $crate::quiet_hub::answered(Err(walhub_hub::api::append::in_recovery(command)))
        }
    };
    (@ wait) => {
        fn wait(
            &self,
            _: walhub_proto::lsn::Lsn,
            _: walhub_proto::syncrep::WaitLevel,
            _: u32,
        ) -> tokio::sync::oneshot::Receiver<walhub_hub::api::append::Waited> {
            $crate::quiet_hub::answered(walhub_hub::api::append::Waited::Canceled)
        }
    };
    (@ cancel_wait) => {
        fn cancel_wait(&self, _: u32) {}
    };
    (@ promote) => {
        fn promote(
            &self,
        ) -> tokio::sync::oneshot::Receiver<Result<(), walhub_proto::wire::backend::Report>> {
            $crate::quiet_hub::answered(Err(walhub_hub::api::append::not_in_recovery()))
        }
    };
}

/// An answer that is there at once.
pub(crate) fn answered<T>(answer: T) -> tokio::sync::oneshot::Receiver<T> {
    let (reply, receiver) = tokio::sync::oneshot::channel();
    drop(reply.send(answer));
    receiver
}
