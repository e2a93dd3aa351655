//! Small transactions, each made to last by one write: what the database does not have on the disk yet.
//!
//! Theory. The database makes a change last by writing every page on the way to it, some ten all over its file, before the
//! disk is asked for its word; a caller waits for all of that. So a small transaction is first written down here, as one
//! record behind the last, which is all that must be on the disk before it is acknowledged; the database gets it in memory.
//! From time to time the database writes what it has to the disk (a *checkpoint*) and the journal begins anew. After a
//! crash the database is as it was at the checkpoint, and the records since are carried out again.
//!
//! The file has a fixed size and is written over from its beginning, so that writing it changes nothing that the file
//! system would have to write down, too. A record begins a block of its own: writing one never touches the bytes of another
//! that was acknowledged. It has its revision and a checksum. Records are good as long as each is the revision after the
//! one before; what is left of an earlier round is older, and a record that was not written to its end has a wrong
//! checksum, so reading ends at the newest that was. Only the last one can have been written in part: a newer one that is
//! whole behind the end says that what was acknowledged is lost, and a first one that does not continue the database says
//! that it is the journal of another. Neither is for this code to decide, so both are errors. A record whose transaction
//! came to nothing after all is *voided*, or a restart would carry it out.
//!
//! It must never be written but by one transaction at a time, nor hold one that was not whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tracing::warn;

/// What a record begins with, and what is padded.
const BLOCK: usize = 4096;
/// Blocks of the file.
const BLOCKS: usize = 1024;
/// Bytes of edits beyond which a transaction is for the database alone.
const MAX_EDITS: usize = 64 << 10;
/// Every record begins with this.
const MAGIC: u64 = u64::from_be_bytes(*b"lamina-1");
/// Magic, revision, bytes of edits, checksum.
const HEADER: usize = 32;

/// The file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Where the next record goes.
    end: usize,
    /// Memory for the next record.
    record: Vec<u8>,
}

/// Why the journal cannot be used.
#[derive(Debug)]
pub enum JournalError {
    /// The disk may be full or broken.
    Io(io::Error),
    /// It does not continue the database.
    OtherStore {
        /// The database's revision.
        revision: u64,
        /// That of its first record that is newer.
        first: u64,
    },
    /// A record is not readable and was acknowledged, since there are later ones.
    Damaged {
        /// The record's revision.
        revision: u64,
        /// That of a later one.
        later: u64,
    },
}

impl std::fmt::Display for JournalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JournalError::Io(error) => write!(f, "{error}"),
            JournalError::OtherStore { revision, first } => write!(
                f,
                "policy.redb ends with revision {revision} and policy.journal goes on with {first}, so they are not of one \
                 store: put both there from one copy, or move policy.journal away to begin with what policy.redb has"
            ),
            JournalError::Damaged { revision, later } => write!(
                f,
                "revision {revision} in policy.journal is damaged and {later} was made later: restore the state directory from \
                 a copy, or move policy.journal away to begin with what policy.redb has"
            ),
        }
    }
}

impl std::error::Error for JournalError {}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        JournalError::Io(error)
    }
}

/// A change of the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit<'a> {
    /// The object with this key has this value.
    Put(&'a [u8], &'a [u8]),
    /// The object with this key is gone.
    Remove(&'a [u8]),
    /// The port of this name has this number.
    PortId(&'a [u8], u32),
}

/// The changes of one transaction, in order.
#[derive(Debug, Default)]
pub struct Edits {
    bytes: Vec<u8>,
    is_too_large: bool,
}

impl Edits {
    /// One more.
    pub fn add(&mut self, edit: Edit<'_>) {
        let (kind, key, value) = match edit {
            Edit::Put(key, value) => (b'+', key, value),
            Edit::Remove(key) => (b'-', key, &[][..]),
            Edit::PortId(name, id) => (b'p', name, &id.to_be_bytes()[..]),
        };
        self.is_too_large |= self.bytes.len() + key.len() + value.len() + 9 > MAX_EDITS;
        if self.is_too_large {
            self.bytes = Vec::new();
            return;
        }
        self.bytes.push(kind);
        for part in [key, value] {
            self.bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            self.bytes.extend_from_slice(part);
        }
    }
}

/// The edits in `bytes`; `None` where they are not readable.
fn edits(mut bytes: &[u8]) -> Option<Vec<Edit<'_>>> {
    fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        *bytes = rest;
        Some(part)
    }
    let mut edits = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        bytes = rest;
        let (key, value) = (part(&mut bytes)?, part(&mut bytes)?);
        edits.push(match kind {
            b'+' => Edit::Put(key, value),
            b'-' => Edit::Remove(key),
            b'p' => Edit::PortId(key, u32::from_be_bytes(value.try_into().ok()?)),
            _ => return None,
        });
    }
    Some(edits)
}

impl Journal {
    /// Opens the file at `path`, or makes it, and has `redo` do again what came after `revision`, in order. `None`, with a
    /// warning, when there is none and none can be made.
    pub fn open<E: From<JournalError>>(
        path: &Path,
        revision: u64,
        mut redo: impl FnMut(u64, &[Edit<'_>]) -> Result<(), E>,
    ) -> Result<Option<Journal>, E> {
        let is_there = path.try_exists().map_err(JournalError::Io)?;
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = match opened {
            Err(error) if !is_there => return Ok(does_without(&error)),
            opened => opened.map_err(JournalError::Io)?,
        };
        let mut bytes = Vec::with_capacity(BLOCK * BLOCKS);
        file.read_to_end(&mut bytes).map_err(JournalError::Io)?;
        let newer = newer(&bytes, revision)?;
        for (number, edits) in &newer {
            redo(*number, edits)?;
        }
        match complete(&mut file, bytes.len(), path) {
            // One that is shorter was never completed.
            Err(error) if newer.is_empty() => {
                if !is_there && let Err(error) = std::fs::remove_file(path) {
                    warn!("what there is of the policy store's journal stays: {error}");
                }
                Ok(does_without(&error))
            }
            completed => {
                completed.map_err(JournalError::Io)?;
                Ok(Some(Journal { file, end: 0, record: Vec::new() }))
            }
        }
    }

    /// Writes the transaction of `revision` down; when this returns true, it is on the disk. False, and nothing is
    /// written, when there is no room for it. It counts once it is [kept](Journal::keep); until then, and after an error,
    /// it may be there after a restart unless it is [voided](Journal::void).
    pub fn write(&mut self, revision: u64, edits: &Edits) -> io::Result<bool> {
        self.record.clear();
        let length = blocks(edits.bytes.len());
        if edits.is_too_large || self.end + length > BLOCK * BLOCKS {
            return Ok(false);
        }
        let record = &mut self.record;
        for number in [MAGIC, revision, edits.bytes.len() as u64, checksum(revision, &edits.bytes)] {
            record.extend_from_slice(&number.to_be_bytes());
        }
        record.extend_from_slice(&edits.bytes);
        record.resize(length, 0);
        self.file.write_all_at(record, self.end as u64)?;
        self.file.sync_data()?;
        Ok(true)
    }

    /// What was written last counts: the next record comes behind it.
    pub fn keep(&mut self) {
        self.end += self.record.len();
        self.record.clear();
    }

    /// What was written last and not kept, if anything, is not to be: when this returns well, no restart finds it.
    pub fn void(&mut self) -> io::Result<()> {
        if !self.record.is_empty() {
            self.file.write_all_at(&[0; HEADER], self.end as u64)?;
            self.file.sync_data()?;
            self.record.clear();
        }
        Ok(())
    }

    /// The database has everything on the disk: the journal begins anew.
    pub fn begin_anew(&mut self) {
        self.end = 0;
        self.record.clear();
    }

    /// True when there are records that the database may not have on the disk.
    pub fn is_needed(&self) -> bool {
        self.end > 0
    }
}

/// None, with the reason logged.
fn does_without(error: &io::Error) -> Option<Journal> {
    warn!("the policy store does without its journal, which cannot be made: {error}");
    None
}

/// Gives the file at `path`, which has `length` bytes, its full size.
fn complete(file: &mut File, length: usize, path: &Path) -> io::Result<()> {
    if length < BLOCK * BLOCKS {
        // Written rather than reserved: the first record would have the file system note that it has been.
        file.write_all(&vec![0; BLOCK * BLOCKS - length])?;
        file.sync_all()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
    }
    Ok(())
}

/// A revision with its edits.
type Transaction<'a> = (u64, Vec<Edit<'a>>);

/// The transactions in `bytes` that came after `revision`, in order.
fn newer(bytes: &[u8], revision: u64) -> Result<Vec<Transaction<'_>>, JournalError> {
    let mut found = Vec::new();
    let mut rest = bytes;
    let mut last: Option<u64> = None;
    while let Some((number, content)) = record(rest) {
        let is_next = last.is_none_or(|last| number == last + 1);
        let Some(edits) = edits(content).filter(|_| is_next) else { break };
        if number > revision {
            if found.is_empty() && number != revision + 1 {
                return Err(JournalError::OtherStore { revision, first: number });
            }
            found.push((number, edits));
        }
        last = Some(number);
        rest = rest.get(blocks(content.len())..).unwrap_or_default();
    }
    // The end. What is behind it is of an earlier round; else the record here was not the last one.
    let last = last.map_or(revision, |last| last.max(revision));
    let mut behind = rest.chunks(BLOCK).enumerate().map(|(block, _)| &rest[block * BLOCK..]);
    match behind.find_map(|bytes| record(bytes).filter(|(number, _)| *number > last)) {
        Some((later, _)) => Err(JournalError::Damaged { revision: last + 1, later }),
        None => Ok(found),
    }
}

/// The revision and the edits of the record that `bytes` begin with, if they do and it is whole.
fn record(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let number = |at: usize| header[at * 8..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let content = rest.get(..usize::try_from(number(2)).ok()?)?;
    let is_whole = number(0) == MAGIC && number(3) == checksum(number(1), content);
    is_whole.then_some((number(1), content))
}

/// The bytes of a record with so many bytes of edits.
fn blocks(edits: usize) -> usize {
    (HEADER + edits).next_multiple_of(BLOCK)
}

/// FNV-1a: it tells a record that is not whole, nobody forges one.
fn checksum(revision: u64, bytes: &[u8]) -> u64 {
    let all = revision.to_be_bytes();
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    all.iter().chain(bytes).fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("lamina-journal-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("policy.journal")
        }

        /// What is redone after `revision`, each as its revision and its first key.
        fn redone(&self, revision: u64) -> (Journal, Vec<(u64, Vec<u8>)>) {
            let mut redone = Vec::new();
            let journal = Journal::open(&self.file(), revision, |number, edits| {
                let [Edit::Put(key, _), ..] = edits else { panic!("{edits:?}") };
                redone.push((number, key.to_vec()));
                Ok::<(), JournalError>(())
            });
            (journal.unwrap().unwrap(), redone)
        }

        /// Why it is not opened. Nothing may have been redone.
        fn refused(&self, revision: u64) -> JournalError {
            let redo = |number, _: &[Edit<'_>]| -> Result<(), JournalError> { panic!("{number} is redone") };
            Journal::open(&self.file(), revision, redo).unwrap_err()
        }

        /// Calls `check` with the byte at `at` of the file changed.
        fn with_damage(&self, at: usize, check: impl FnOnce()) {
            let file = OpenOptions::new().read(true).write(true).open(self.file()).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at as u64).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
            check();
            file.write_all_at(&byte, at as u64).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    impl Journal {
        /// One in `file`, as it is.
        fn on(file: File) -> Journal {
            Journal { file, end: 0, record: Vec::new() }
        }
    }

    fn put(key: &[u8], bytes: usize) -> Edits {
        let mut edits = Edits::default();
        edits.add(Edit::Put(key, &vec![7; bytes]));
        edits
    }

    fn add(journal: &mut Journal, revision: u64, edits: &Edits) -> bool {
        let is_written = journal.write(revision, edits).unwrap();
        if is_written {
            journal.keep();
        }
        is_written
    }

    #[test]
    fn edits_are_read_as_they_were_written_and_nothing_cut_is() {
        let mut written = Edits::default();
        let all = [Edit::Put(b"a", b"1"), Edit::Remove(b"b"), Edit::PortId(b"vm", 7), Edit::Put(b"", b"")];
        all.into_iter().for_each(|edit| written.add(edit));
        assert_eq!(edits(&written.bytes).unwrap(), all);
        for cut in 1..written.bytes.len() {
            assert!(edits(&written.bytes[..cut]).is_none_or(|edits| edits.len() < all.len()), "{cut}");
        }
        assert!(edits(b"x\0\0\0\0\0\0\0\0").is_none());
    }

    #[test]
    fn what_came_after_the_checkpoint_is_redone_in_order() {
        let folder = Folder::new("order");
        let (mut journal, redone) = folder.redone(0);
        assert!(redone.is_empty() && !journal.is_needed());
        for revision in 11..=14 {
            assert!(add(
                &mut journal,
                revision,
                &put(&[revision as u8], 3 * BLOCK * (revision as usize % 2))
            ));
        }
        assert!(journal.is_needed());
        drop(journal);
        let all = |from: u64, to: u64| (from..=to).map(|n| (n, vec![n as u8])).collect::<Vec<_>>();
        assert_eq!(folder.redone(10).1, all(11, 14));
        assert_eq!(folder.redone(12).1, all(13, 14));
        let (mut journal, redone) = folder.redone(14);
        assert!(redone.is_empty());
        // The next round: what is behind it is older.
        for revision in 15..=16 {
            assert!(add(&mut journal, revision, &put(&[revision as u8], 10)));
        }
        assert_eq!(folder.redone(14).1, all(15, 16));
    }

    #[test]
    fn a_record_that_was_written_and_not_kept_gives_way_to_the_next() {
        let folder = Folder::new("kept");
        let (mut journal, _) = folder.redone(0);
        assert!(journal.write(1, &put(b"given up", 9 * BLOCK)).unwrap());
        assert!(add(&mut journal, 1, &put(b"one", 1)));
        assert!(add(&mut journal, 2, &put(b"two", 1)));
        assert_eq!(folder.redone(0).1, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    }

    #[test]
    fn a_record_that_was_voided_is_not_redone() {
        let folder = Folder::new("void");
        let (mut journal, _) = folder.redone(0);
        assert!(add(&mut journal, 1, &put(b"one", 1)));
        // Nothing was written since: there is nothing to void.
        journal.void().unwrap();
        assert_eq!(folder.redone(0).1.len(), 1);
        assert!(journal.write(2, &put(b"refused", 3 * BLOCK)).unwrap());
        assert_eq!(folder.redone(0).1.len(), 2, "it is on the disk");
        journal.void().unwrap();
        assert_eq!(folder.redone(0).1, [(1, b"one".to_vec())]);
        assert!(add(&mut journal, 2, &put(b"two", 1)));
        assert!(add(&mut journal, 3, &put(b"three", 1)));
        assert_eq!(folder.redone(1).1, [(2, b"two".to_vec()), (3, b"three".to_vec())]);
        // A disk that does not give its word.
        let mut deaf = Journal::on(OpenOptions::new().write(true).open("/dev/null").unwrap());
        assert!(deaf.write(1, &put(b"one", 1)).is_err() && deaf.void().is_err());
    }

    #[test]
    fn the_last_record_may_miss_a_part_and_no_other() {
        let folder = Folder::new("part");
        let (mut journal, _) = folder.redone(0);
        // An earlier round, which is no loss.
        for revision in 1..=9 {
            assert!(add(&mut journal, revision, &put(b"old", 1)));
        }
        journal.begin_anew();
        assert!(add(&mut journal, 10, &put(b"ten", 1)));
        assert!(add(&mut journal, 11, &put(b"eleven", 3 * BLOCK)));
        let places = [BLOCK, BLOCK + 9, BLOCK + HEADER + 2, 2 * BLOCK, 3 * BLOCK + 77];
        for at in places {
            folder.with_damage(at, || assert_eq!(folder.redone(9).1, [(10, b"ten".to_vec())], "{at}"));
        }
        folder.with_damage(8, || assert!(matches!(folder.refused(9), JournalError::Damaged { .. })));
        assert!(add(&mut journal, 12, &put(b"twelve", 1)));
        for at in places {
            folder.with_damage(at, || {
                let error = folder.refused(9);
                assert!(matches!(error, JournalError::Damaged { revision: 11, later: 12 }), "{at}: {error}");
                // The database has it.
                assert!(folder.redone(12).1.is_empty());
            });
        }
        folder.with_damage(5 * BLOCK, || assert_eq!(folder.redone(9).1.len(), 2));
        assert_eq!(folder.redone(9).1.len(), 3);
    }

    #[test]
    fn the_journal_of_another_database_is_refused() {
        let folder = Folder::new("other");
        let (mut journal, _) = folder.redone(0);
        assert!(add(&mut journal, 7, &put(b"seven", 1)));
        assert!(add(&mut journal, 8, &put(b"eight", 1)));
        let error = folder.refused(5);
        assert!(matches!(error, JournalError::OtherStore { revision: 5, first: 7 }), "{error}");
        for (revision, redone) in [(6, 2), (7, 1), (8, 0), (100, 0)] {
            assert_eq!(folder.redone(revision).1.len(), redone, "{revision}");
        }
    }

    #[test]
    fn without_a_journal_that_cannot_be_made_it_goes_on() {
        let folder = Folder::new("made");
        let redo = |_, _: &[Edit<'_>]| Ok::<(), JournalError>(());
        let nowhere = folder.0.join("missing").join("policy.journal");
        assert!(Journal::open(&nowhere, 3, redo).unwrap().is_none());
        // It takes bytes, and does not give its word that it has them.
        let deaf = folder.file();
        std::os::unix::fs::symlink("/dev/null", &deaf).unwrap();
        assert!(Journal::open(&deaf, 3, redo).unwrap().is_none());
        // What is there and cannot be read is something else.
        assert!(matches!(Journal::open(&folder.0, 3, redo), Err(JournalError::Io(_))));
    }

    #[test]
    fn what_has_no_room_is_refused_and_leaves_what_is_there() {
        let folder = Folder::new("room");
        let (mut journal, _) = folder.redone(0);
        let mut large = put(b"large", MAX_EDITS);
        large.add(Edit::Remove(b"small"));
        assert!(!journal.write(1, &large).unwrap());
        let mut revision = 0;
        while add(&mut journal, revision + 1, &put(b"k", 10)) {
            revision += 1;
        }
        assert_eq!(revision as usize, BLOCKS);
        assert_eq!(folder.redone(0).1.len(), BLOCKS);
        assert_eq!(std::fs::metadata(folder.file()).unwrap().len(), (BLOCK * BLOCKS) as u64);
        journal.begin_anew();
        assert!(add(&mut journal, revision + 1, &put(b"new", 10)));
        assert_eq!(folder.redone(revision).1, [(revision + 1, b"new".to_vec())]);
    }
}
