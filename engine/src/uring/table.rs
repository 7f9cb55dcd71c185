//! Descriptors by small number, with the count of operations under way on each.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

#[derive(Debug)]
struct Entry {
    fd: OwnedFd,
    busy: u32,
}

/// Open descriptors. A number is used again after its descriptor was taken out.
#[derive(Debug)]
pub(super) struct Table {
    /// What the descriptors are, for messages.
    noun: &'static str,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
}

impl Table {
    pub(super) fn new(noun: &'static str) -> Self {
        Self { noun, entries: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, fd: OwnedFd) -> u32 {
        let entry = Some(Entry { fd, busy: 0 });
        if let Some(id) = self.free.pop() {
            self.entries[index(id)] = entry;
            return id;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).expect("the kernel has fewer descriptors")
    }

    /// # Panics
    /// If the number names nothing, or an operation is under way.
    pub(super) fn remove(&mut self, id: u32) -> OwnedFd {
        let busy = self.entry(id).busy;
        assert_eq!(busy, 0, "{} {id} has operations under way", self.noun);
        let entry = self.entries[index(id)].take().expect("just seen");
        self.free.push(id);
        entry.fd
    }

    /// The descriptor, without a claim to it.
    pub(super) fn peek(&mut self, id: u32) -> &OwnedFd {
        &self.entry(id).fd
    }

    /// The descriptor for an operation that begins.
    pub(super) fn begin(&mut self, id: u32) -> RawFd {
        let entry = self.entry(id);
        entry.busy += 1;
        entry.fd.as_raw_fd()
    }

    /// Says that an operation has ended.
    pub(super) fn end(&mut self, id: u32) {
        let entry = self.entry(id);
        entry.busy = entry.busy.checked_sub(1).expect("an operation ends once");
    }

    /// Takes out all descriptors.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = OwnedFd> {
        self.free.clear();
        self.entries.drain(..).flatten().map(|entry| entry.fd)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &OwnedFd> {
        self.entries.iter().flatten().map(|entry| &entry.fd)
    }

    fn entry(&mut self, id: u32) -> &mut Entry {
        let entry = self.entries.get_mut(index(id)).and_then(Option::as_mut);
        entry.unwrap_or_else(|| panic!("no {} {id}", self.noun))
    }
}

fn index(id: u32) -> usize {
    usize::try_from(id).expect("32 bits fit an index")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn fd() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn numbers_are_used_again() {
        let mut table = Table::new("file");
        let (first, second) = (table.insert(fd()), table.insert(fd()));
        assert_ne!(first, second);
        table.begin(first);
        table.end(first);
        drop(table.remove(first));
        assert_eq!(table.insert(fd()), first);
        assert_eq!(table.iter().count(), 2);
    }

    #[test]
    #[should_panic(expected = "socket 0 has operations under way")]
    fn busy_descriptors_stay() {
        let mut table = Table::new("socket");
        let id = table.insert(fd());
        table.begin(id);
        table.remove(id);
    }

    #[test]
    #[should_panic(expected = "no file 3")]
    fn unknown_numbers_panic() {
        Table::new("file").begin(3);
    }
}
