use super::*;
use crate::spool::simulated::{Image, Simulated};
use crate::spool::tests::{LIMITS, put};
use crate::spool::{BodyId, Spool};

fn changed(disk: &Simulated, change: impl FnOnce(&Database)) {
    let fenced = Fenced::new(disk.journal().unwrap());
    change(&Builder::new().create_with_backend(fenced).unwrap());
}

/// "An unknown newer one is refused with a message that says what to do."
#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let disk = Simulated::new(Image::default());
    drop(Opened::open(&disk).unwrap());
    changed(&disk, |database| {
        let begun = database.begin_write().unwrap();
        begun.open_table(META).unwrap().insert(VERSION_KEY, VERSION + 1).unwrap();
        begun.commit().unwrap();
    });
    for _ in 0..2 {
        let error = Spool::open(Arc::new(disk.clone()), LIMITS).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("format 4"), "{error}");
        assert!(error.to_string().contains("start the version that wrote it"), "{error}");
    }
}

#[test]
fn what_is_no_journal_is_refused_and_left_as_it_is() {
    let disk = Simulated::new(Image { journal: vec![7; 5000], ..Image::default() });
    let error = Opened::open(&disk).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
    assert_eq!(disk.image().journal, vec![7; 5000]);
}

/// A journal whose first bytes are gone is damaged: it is not begun anew as if it had been empty.
#[tokio::test]
async fn a_journal_that_lost_its_beginning_is_not_taken_for_an_empty_one() {
    let disk = Simulated::new(Image::default());
    let spool = Spool::open(Arc::new(disk.clone()), LIMITS).unwrap();
    put(&spool, "a", b"inline", false).await.unwrap();
    drop(spool);
    let mut image = disk.image();
    image.journal[..4096].fill(0);
    let error = Opened::open(&Simulated::new(image)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

/// "Never a second fsync of the same data", whatever redb would try.
#[test]
fn a_file_that_failed_is_not_touched_again() {
    let disk = Simulated::new(Image::default());
    let fenced = Fenced::new(disk.journal().unwrap());
    fenced.write(0, b"abc").unwrap();
    disk.fail_after(0);
    fenced.sync_data().unwrap_err();
    fenced.sync_data().unwrap_err();
    fenced.write(0, b"xyz").unwrap_err();
    fenced.set_len(0).unwrap_err();
    assert_eq!((disk.failed().unwrap().1, &disk.image().journal[..]), (0, &b"abc"[..]));
}

#[test]
fn numbers_are_never_given_twice() {
    let disk = Simulated::new(Image::default());
    let firsts: Vec<u64> = (0..3).map(|_| Opened::open(&disk).unwrap().first()).collect();
    assert_eq!(firsts, [1 << 40, 2 << 40, 3 << 40]);
}

/// A record that cannot be read blocks no other, and may name any file.
#[tokio::test]
async fn an_unreadable_record_keeps_all_files_and_blocks_no_other() {
    let disk = Simulated::new(Image::default());
    let spool = Spool::open(Arc::new(disk.clone()), LIMITS).unwrap();
    let seq = put(&spool, "a", b"inline", false).await.unwrap();
    disk.create(BodyId(7), None).unwrap().append(&[Bytes::from_static(b"x")]).unwrap();
    drop(spool);
    changed(&disk, |database| {
        let begun = database.begin_write().unwrap();
        begun.open_table(ENTRIES).unwrap().insert(5, &b"\x01{}"[..]).unwrap();
        begun.commit().unwrap();
    });
    for _ in 0..2 {
        let spool = Spool::open(Arc::new(disk.clone()), LIMITS).unwrap();
        assert_eq!((spool.totals().unreadable, spool.totals().entries), (1, 1));
        assert_eq!(spool.claim(std::time::Instant::now()).unwrap().seq(), seq);
        assert_eq!(disk.bodies().unwrap(), [BodyId(7)]);
    }
}

/// What was ended is gone from the tables as well, and of another upload nothing.
#[tokio::test]
async fn the_rows_of_an_upload_that_was_ended_are_gone() {
    let disk = Simulated::new(Image::default());
    let opened = Opened::open(&disk).unwrap();
    let latch = Arc::new(Latch::default());
    let journal = opened.start(Arc::new(disk.clone()), latch).unwrap();
    let change = async |number, change| {
        let (number, done) = journal.submit(number, change, |_| ()).unwrap();
        wait(done).await.unwrap();
        number
    };
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let number = change(None, Change::Begin { record: vec![1] }).await;
        for part in [1, 2, u16::MAX] {
            change(Some(number), Change::Part { number: part, record: vec![1] }).await;
        }
        numbers.push(number);
    }
    change(Some(numbers[0]), Change::End).await;
    let (record, completed) = (vec![1], vec![1]);
    let entry = change(None, Change::Complete { upload: numbers[2], record, completed }).await;
    drop(journal);
    let opened = Opened::open(&disk).unwrap();
    let records = opened.read_uploads().unwrap();
    let uploads: Vec<u64> = records.uploads.iter().map(|(number, _)| *number).collect();
    let parts: Vec<(u64, u16)> = records.parts.iter().map(|(place, _)| *place).collect();
    let middle = numbers[1];
    assert_eq!(uploads, [middle]);
    assert_eq!(parts, [(middle, 1), (middle, 2), (middle, u16::MAX)]);
    assert_eq!((records.completed[0].0, opened.read().unwrap()[0].0), (entry, entry));
}
