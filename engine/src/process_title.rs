//! What `ps` shows for this process.
//!
//! Linux shows the memory that the arguments were put in at the start of the process, with the
//! environment's right behind it. Both are copied to the heap first, so the whole area is free for
//! the title and whoever reads arguments or environment later still finds them.
//!
//! PostgreSQL: `save_ps_display_args`, `set_ps_display` (src/backend/utils/misc/ps_status.c).

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::ops::Range;
use std::ptr;

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
}

/// The title of this process.
#[derive(Debug)]
pub struct ProcessTitle {
    /// Addresses that may be written, empty when there is no title to be had.
    area: Range<usize>,
}

impl ProcessTitle {
    /// Finds the place for a title. Call it first in `main`, before any thread is made: later, and
    /// where the system tells too little, every title is ignored.
    #[must_use]
    pub fn init() -> Self {
        let area = if is_single_threaded() { claim_area() } else { None };
        Self { area: area.unwrap_or(0..0) }
    }

    /// Whether titles are shown.
    #[must_use]
    pub fn is_available(&self) -> bool {
        !self.area.is_empty()
    }

    /// Shows `title`, or as much of it as fits; bytes after a NUL are not shown.
    pub fn set(&mut self, title: &str) {
        let Some(room) = self.area.len().checked_sub(1) else { return };
        let mut end = title.len().min(room);
        while !title.is_char_boundary(end) {
            end -= 1;
        }
        let shown = &title.as_bytes()[..end];
        let target = ptr::with_exposed_provenance_mut::<u8>(self.area.start);
        // SAFETY: the area was the arguments' and environment's and has been nobody else's since
        // `claim_area` moved these to the heap; `shown` is shorter than the area. The kernel may
        // read it at any time and copes with any bytes.
        unsafe {
            target.copy_from_nonoverlapping(shown.as_ptr(), shown.len());
            target.add(shown.len()).write_bytes(0, self.area.len() - shown.len());
        }
    }
}

fn is_single_threaded() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Moves arguments and environment to the heap, and returns the addresses they leave.
fn claim_area() -> Option<Range<usize>> {
    let layout = Layout::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let stack = ptr::with_exposed_provenance::<usize>(layout.stack);
    // SAFETY: a process begins with its stack pointer at argc, an aligned word.
    let argc = unsafe { stack.read() };
    if argc == 0 || argc > layout.args.len() {
        return None;
    }
    let argv = ptr::with_exposed_provenance_mut::<*mut c_char>(layout.stack + size_of::<usize>());
    // SAFETY: behind argc come that many pointers and a NULL. Only this thread runs, and the slice
    // is gone when this function returns.
    let arguments = unsafe { std::slice::from_raw_parts_mut(argv, argc + 1) };
    let (end, arguments) = arguments.split_last_mut()?;
    if !end.is_null() || arguments[0].addr() != layout.args.start {
        return None;
    }
    for argument in arguments {
        *argument = to_heap(*argument);
    }
    move_environment();
    Some(layout.args.start..layout.env.end)
}

fn move_environment() {
    // SAFETY: only this thread runs, so nobody changes the pointer meanwhile.
    let mut old = unsafe { environ };
    let mut strings = Vec::new();
    while !old.is_null() {
        // SAFETY: the array ends with the NULL that ends this loop, and only this thread runs.
        let string = unsafe { *old };
        if string.is_null() {
            break;
        }
        strings.push(to_heap(string));
        old = old.wrapping_add(1);
    }
    strings.push(ptr::null_mut());
    // SAFETY: only this thread runs. The new array ends with NULL and lives for ever.
    unsafe { environ = strings.leak().as_mut_ptr() };
}

/// A copy of a C string that lives for ever.
fn to_heap(string: *const c_char) -> *mut c_char {
    // SAFETY: arguments and variables are C strings, and nobody changes them meanwhile.
    CString::from(unsafe { CStr::from_ptr(string) }).into_raw()
}

/// Where the kernel has put things at the start of the process.
#[derive(PartialEq, Eq, Debug)]
struct Layout {
    /// Address of argc, with the argument pointers behind it.
    stack: usize,
    args: Range<usize>,
    env: Range<usize>,
}

impl Layout {
    /// Reads fields 28 and 48 to 51 of proc_pid_stat(5). `None` when they make no sense, as where
    /// the kernel hides them.
    fn parse(stat: &str) -> Option<Self> {
        // The name in parentheses is field 2 and may contain anything.
        let (_, behind_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
        let layout =
            Self { stack: field(28)?, args: field(48)?..field(49)?, env: field(50)?..field(51)? };
        let makes_sense = layout.stack > 0
            && layout.stack.is_multiple_of(align_of::<usize>())
            && layout.stack < layout.args.start
            && layout.args.start < layout.args.end
            && layout.args.end == layout.env.start
            && layout.env.start <= layout.env.end;
        makes_sense.then_some(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as the kernel writes it, with the fields that matter.
    fn line(stack: u32, bounds: [u32; 4]) -> String {
        let between = |count| "0 ".repeat(count);
        let [args, args_end, env, env_end] = bounds;
        format!(
            "12 (a) b) ({}) S {}{stack} {}{args} {args_end} {env} {env_end} 0",
            "x",
            between(24),
            between(19)
        )
    }

    #[test]
    fn reads_the_kernels_line() {
        let layout = Layout { stack: 800, args: 1000..1010, env: 1010..1020 };
        assert_eq!(Layout::parse(&line(800, [1000, 1010, 1010, 1020])), Some(layout));
    }

    #[test]
    fn lines_that_make_no_sense_give_no_area() {
        let lines = [
            line(0, [0, 0, 0, 0]),
            line(801, [1000, 1010, 1010, 1020]),
            line(1200, [1000, 1010, 1010, 1020]),
            line(800, [1000, 1000, 1000, 1020]),
            line(800, [1000, 1010, 1011, 1020]),
            line(800, [1000, 1010, 1010, 1009]),
            "12 (x) S 0".to_owned(),
            String::new(),
        ];
        for line in lines {
            assert_eq!(Layout::parse(&line), None, "{line}");
        }
    }

    #[test]
    fn no_title_where_other_threads_run() {
        // The test runner is another thread.
        let mut title = ProcessTitle::init();
        assert!(!title.is_available());
        title.set("ignored");
    }
}
