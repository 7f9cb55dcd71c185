//! Jobs on a ring and a directory of their own.

use std::path::Path;

use walhub_engine::uring::{Uring, UringConfig};

use super::*;

/// Runs a job to its end; how many operations it took, and what came of it.
fn run(steps: Vec<Step>) -> (u32, Finished<()>) {
    let mut io = Uring::new(UringConfig::default()).unwrap();
    let mut jobs = Jobs::new(1 << 60);
    let mut operations = 0;
    jobs.start(&mut io, (), steps);
    loop {
        let mut completions = Vec::new();
        io.wait(None, &mut completions).unwrap();
        for completion in completions {
            operations += 1;
            if let Some(finished) = jobs.handle(&mut io, completion.token, completion.result) {
                assert!(jobs.is_idle());
                return (operations, finished);
            }
        }
    }
}

fn copy(from: &Path, to: &Path, end: u64) -> Vec<Step> {
    let mode = |create| OpenMode { create, direct: false };
    vec![
        Step::Open(to.to_path_buf(), mode(true)),
        Step::OpenSource(from.to_path_buf(), mode(false)),
        Step::Copy { offset: 0, end },
        Step::CloseSource,
        Step::Sync,
        Step::Close,
    ]
}

#[test]
fn a_copy_goes_in_pieces_and_ends_with_a_block_of_what_is_copied_and_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let content: Vec<u8> = (0..5_u32 << 20).map(|at| (at / 7).to_le_bytes()[0] | 1).collect();
    std::fs::write(&from, &content).unwrap();
    for end in [1_usize, 4096, 4097, COPY_PIECE_LEN, COPY_PIECE_LEN + 1, content.len() - 3] {
        // What the file had before is another recycled segment's.
        std::fs::write(&to, vec![9; content.len()]).unwrap();
        let (operations, finished) = run(copy(&from, &to, u64::try_from(end).unwrap()));
        assert!(finished.result.unwrap().is_none());
        let pieces = u32::try_from(end.div_ceil(COPY_PIECE_LEN)).unwrap();
        assert_eq!(operations, 5 + 2 * pieces, "{end} bytes");
        let copied = std::fs::read(&to).unwrap();
        let blocks = end.next_multiple_of(BLOCK_LEN).min(content.len());
        assert!(copied[..end] == content[..end], "{end} bytes");
        assert!(copied[end..blocks].iter().all(|&byte| byte == 0), "{end} bytes");
        assert!(copied[blocks..].iter().all(|&byte| byte == 9), "{end} bytes");
    }
}

#[test]
fn a_source_that_is_too_short_is_named_and_both_files_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, [1; 5000]).unwrap();
    let (_, finished) = run(copy(&from, &to, 5001));
    let error = finished.result.unwrap_err();
    assert_eq!((error.step, &error.path), ("read", &from));
    assert_eq!(error.error.kind(), io::ErrorKind::UnexpectedEof);
    let (_, finished) = run(copy(&dir.path().join("nowhere"), &to, 1));
    let text = finished.result.unwrap_err().to_string();
    assert!(text.starts_with("could not open file"), "{text}");
}

#[test]
fn what_is_read_comes_with_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, [[1; 4096], [2; 4096]].concat()).unwrap();
    let open = Step::Open(path, OpenMode { create: false, direct: false });
    let (_, finished) = run(vec![open, Step::Read { offset: 4096, len: BLOCK_LEN }, Step::Close]);
    assert!(finished.result.is_ok() && finished.data == [2; 4096]);
}

#[test]
fn a_copy_that_a_short_read_has_put_between_two_blocks_ends_with_a_block() {
    for (offset, end) in [(4000_u64, 4097_u64), (1822, (1 << 20) + 2822), (1, 2 << 20)] {
        let steps = VecDeque::from([Step::Copy { offset, end }]);
        let mut job = Job::new((), steps, None);
        let piece = copy_piece_len(offset, end);
        let mut buf = Buffer::with_capacity(piece);
        buf.fill(&vec![1; piece]);
        advance(&mut job, Some(Step::Copy { offset, end }), Done::Read(buf));
        let Some(Step::Write { data, .. }) = job.steps.front() else {
            panic!("nothing is written")
        };
        let written = offset + u64::try_from(data.len()).unwrap();
        assert!(written >= end || job.steps.len() == 3, "{offset} to {end}: {written}");
        assert!(written < end || written == end.next_multiple_of(BLOCK_BYTES));
    }
}
