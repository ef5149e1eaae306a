//! Groups about the cost of a body's bytes.

use super::*;
use crate::load::Plan;
use crate::measure::Shape;

pub(super) fn large(runner: &mut Runner) -> Result<Vec<Cell>> {
    runner.note(
        "Mizuchi, splice + replay, is as configured by default, in parts of 16 MiB; replay.memory \
         is 4 GiB, so that 32 uploads at a time stay inside it. Never in parts: one PutObject to the \
         sink; what does not fit in 4 GiB is given up (replay.overflow: none)"
            .to_owned(),
    );
    let works =
        [(64 * MIB, 1), (64 * MIB, 32), (GIB, 1), (GIB, 32)].map(|(size, connections)| Work {
            name: cell_name(size, connections),
            shape: Shape::new(size, connections, 1500),
            specs: vec![
                direct(),
                bare_splice(),
                bare_copy(),
                ours(),
                ours_whole(),
                ours_open(),
                ours_copying(),
                haproxy(),
                haproxy_1m(),
                nginx(),
                Spec::Pingora,
                Spec::S3s,
            ],
            columns: BODIES.to_vec(),
            rounds: 5,
        });
    measure(runner, works.into())
}

pub(super) fn medium(runner: &mut Runner) -> Result<Vec<Cell>> {
    let cells = [(64 * KIB, 1), (64 * KIB, 32), (MIB, 1), (MIB, 32)];
    let works = cells.map(|(size, connections)| Work {
        name: cell_name(size, connections),
        shape: Shape::new(size, connections, 1000),
        specs: vec![
            direct(),
            bare_splice(),
            bare_copy(),
            ours(),
            ours_copying(),
            haproxy(),
            haproxy_1m(),
            nginx(),
            Spec::Pingora,
            Spec::S3s,
        ],
        columns: BODIES.to_vec(),
        rounds: if size < MIB { 3 } else { 5 },
    });
    measure(runner, works.into())
}

pub(super) fn plans(runner: &mut Runner) -> Result<Vec<Cell>> {
    let plans = [
        ("signed chunks of 64 KiB", Plan::SignedChunks(64 * KIB)),
        ("signed chunks of 1 MiB", Plan::SignedChunks(MIB)),
        ("unsigned, trailer CRC-32", Plan::TrailerCrc32),
        ("unsigned, trailer CRC-64/NVME", Plan::TrailerCrc64),
    ];
    runner.note(
        "The bare copy loop and SHA-256 alone see the same payload without framing: a copy with the \
         check is held against their sum"
            .to_owned(),
    );
    let works = plans.map(|(name, plan)| Work {
        name: format!("{}, {name}", cell_name(64 * MIB, 1)),
        shape: Shape { plan, ..Shape::new(64 * MIB, 1, 1000) },
        specs: vec![bare_copy(), Spec::Sha256, ours(), ours_forgetting(), Spec::S3s],
        columns: BODIES.to_vec(),
        rounds: 5,
    });
    let mut cells = measure(runner, works.into())?;
    let [small_chunks, _, _, trailer] = plans;
    let works = [small_chunks, trailer].map(|(name, plan)| Work {
        name: format!("{}, {name}", cell_name(MIB, 32)),
        shape: Shape { plan, ..Shape::new(MIB, 32, 1000) },
        specs: vec![bare_copy(), Spec::Sha256, ours()],
        columns: BODIES.to_vec(),
        rounds: 3,
    });
    cells.extend(measure(runner, works.into())?);
    Ok(cells)
}

pub(super) fn tls(runner: &mut Runner) -> Result<Vec<Cell>> {
    let cells = [(64 * MIB, 1), (MIB, 32), (4 * KIB, 32)];
    let works = cells.map(|(size, connections)| {
        let mut columns = if size < MIB { REQUESTS.to_vec() } else { BODIES.to_vec() };
        columns.retain(|metric| *metric != Metric::Pipes);
        Work {
            name: cell_name(size, connections),
            shape: Shape::new(size, connections, 1200),
            specs: vec![
                Spec::Direct(Behind::Tls),
                ours_tls(),
                Spec::Haproxy { pipes: None, threads: 1, tls: true },
                Spec::Nginx { tls: true },
            ],
            columns,
            rounds: 5,
        }
    });
    measure(runner, works.into())
}

pub(super) fn latency(runner: &mut Runner) -> Result<Vec<Cell>> {
    let works = [1, 10, 50].map(|megabytes| Work {
        name: format!("{megabytes} MB × 1"),
        shape: Shape::new(megabytes * 1_000_000, 1, 1000),
        specs: vec![direct(), bare_splice(), ours(), ours_copying(), haproxy()],
        columns: vec![Metric::P50, Metric::P99, Metric::P999, Metric::CpuPerGb],
        rounds: 3,
    });
    measure(runner, works.into())
}

pub(super) fn faults(runner: &mut Runner) -> Result<Vec<Cell>> {
    runner.note("upload.part_size is 5 MiB: a hundred parts are soon sent".to_owned());
    let parts = |key, label, behind| {
        let upload = "      part_size: 5MiB\n";
        let settings = Settings { split: true, more: ROOMY, upload, ..Settings::new(key, label) };
        Spec::Gateway(Settings { behind, ..settings })
    };
    let sound = parts("gw-sound", "in parts of 5 MiB", Behind::Plain);
    let faulty = parts("gw-faults", "the sink resets 1 % of the parts", Behind::Faulty);
    let columns =
        vec![Metric::CpuPerGb, Metric::GbPerSecond, Metric::Resets, Metric::P50, Metric::P99];
    let works = [1, 8].map(|connections| Work {
        name: cell_name(256 * MIB, connections),
        shape: Shape::new(256 * MIB, connections, 3000),
        specs: vec![sound.clone(), faulty.clone()],
        columns: columns.clone(),
        rounds: 3,
    });
    measure(runner, works.into())
}
