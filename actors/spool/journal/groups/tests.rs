use super::*;
use proptest::prelude::*;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bodies");

struct Rig {
    database: Database,
    groups: Groups,
}

impl Rig {
    fn new() -> Rig {
        let database = Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let mut rig = Rig { database, groups: Groups::default() };
        rig.commit(&[], &[]);
        rig
    }

    fn commit(&mut self, come: &[(u64, Bytes)], gone: &[u64]) {
        let come: Vec<(u64, &Bytes)> = come.iter().map(|(number, body)| (*number, body)).collect();
        let begun = self.database.begin_write().unwrap();
        {
            let mut table = begun.open_table(TABLE).unwrap();
            self.groups.write(&mut table, &come, gone.iter().copied()).unwrap();
        }
        begun.commit().unwrap();
    }

    fn reload(&mut self, wanted: impl Fn(u64) -> bool) {
        let table = self.database.begin_read().unwrap().open_table(TABLE).unwrap();
        self.groups = Groups::load(&table, |number| Ok(wanted(number))).unwrap();
    }

    fn read(&self, number: u64) -> io::Result<Bytes> {
        let table = self.database.begin_read().unwrap().open_table(TABLE).unwrap();
        read(&table, number).unwrap()
    }

    /// Values, and their bytes.
    fn held(&self) -> (u64, usize) {
        let table = self.database.begin_read().unwrap().open_table(TABLE).unwrap();
        let bytes = table.iter().unwrap().map(|row| row.unwrap().1.value().len()).sum();
        (table.len().unwrap(), bytes)
    }
}

fn body(number: u64, length: usize) -> Bytes {
    vec![number as u8; length].into()
}

/// What a test does: bodies of these lengths come, each after a number that has none; of those there are,
/// these go; and perhaps the journal is opened anew.
#[derive(Debug, Clone)]
struct Step {
    come: Vec<(u64, usize)>,
    gone: Vec<prop::sample::Index>,
    reload: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![Just(0), 1..200_usize, 1000..9000_usize, Just(GROUP), Just(64 << 10)];
    let step = (
        prop::collection::vec((1..4_u64, length), 0..40),
        prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        any::<bool>(),
    );
    let step = step.prop_map(|(come, gone, reload)| Step { come, gone, reload });
    prop::collection::vec(step, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A body is there, as it came, until it has gone; what is kept on the disk is bounded by what is
    /// wanted; and when nothing is, nothing is kept.
    #[test]
    fn bodies_are_there_until_they_go(steps in steps()) {
        let mut rig = Rig::new();
        let mut model: BTreeMap<u64, Bytes> = BTreeMap::new();
        let mut number = 0;
        for step in steps {
            // Struck are such as were there before: nobody takes off what is not durable yet.
            let there: Vec<u64> = model.keys().copied().collect();
            let mut gone = Vec::new();
            if !there.is_empty() {
                gone = step.gone.iter().map(|index| *index.get(&there)).collect();
            }
            // And one that never had a body here.
            gone.push(number);
            let mut come = Vec::new();
            for (skip, length) in step.come {
                number += skip + 1;
                come.push((number, body(number, length)));
            }
            number += 1;
            rig.commit(&come, &gone);
            gone.iter().for_each(|number| drop(model.remove(number)));
            model.extend(come);
            if step.reload {
                rig.reload(|number| model.contains_key(&number));
            }
            for seen in 0..=number {
                match (model.get(&seen), rig.read(seen)) {
                    (Some(body), found) => prop_assert_eq!(body, &found.unwrap()),
                    // What has gone may be there still.
                    (None, Ok(_)) => {}
                    (None, Err(error)) => prop_assert_eq!(error.kind(), io::ErrorKind::NotFound),
                }
            }
            let wanted: usize = model.values().map(|body| PLACE + body.len()).sum();
            let (values, bytes) = rig.held();
            prop_assert!(values as usize <= model.len());
            prop_assert!(bytes <= SPARSE * wanted + values as usize * (COUNT + CRC));
        }
        let all: Vec<u64> = model.keys().copied().collect();
        rig.commit(&[], &all);
        prop_assert_eq!(rig.held(), (0, 0));
    }
}

/// "Bodies of one commit lie together."
#[test]
fn what_comes_together_lies_together() {
    let mut rig = Rig::new();
    let come: Vec<_> = (1..=64).map(|number| (number, body(number, 4096))).collect();
    rig.commit(&come, &[]);
    assert_eq!(rig.held().0, 5);
    rig.commit(&[(100, body(1, 64 << 10)), (101, body(2, 1))], &[]);
    assert_eq!(rig.held().0, 7);
}

/// A directory that is damaged gives nobody else's bytes, and hurts no other value.
#[test]
fn no_flipped_bit_of_a_directory_is_believed() {
    let mut rig = Rig::new();
    rig.commit(&[(1, body(1, 10)), (2, body(2, 20))], &[]);
    rig.commit(&[(3, body(3, 30))], &[]);
    let value = {
        let table = rig.database.begin_read().unwrap().open_table(TABLE).unwrap();
        table.get(1).unwrap().unwrap().value().to_vec()
    };
    for bit in 0..(COUNT + 2 * PLACE + CRC) * 8 {
        let mut flipped = value.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let begun = rig.database.begin_write().unwrap();
        begun.open_table(TABLE).unwrap().insert(1, flipped.as_slice()).unwrap();
        begun.commit().unwrap();
        rig.reload(|_| true);
        for number in [1, 2] {
            let error = rig.read(number).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "bit {bit}");
        }
        assert_eq!(rig.read(3).unwrap(), body(3, 30));
    }
    rig.commit(&[], &[1, 2, 3]);
    assert_eq!(rig.held().0, 1);
}
