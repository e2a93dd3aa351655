//! Hits of the unified flow table and nothing else, for counting instructions (DESIGN §16: equal from 1 to 20
//! layers). It times nothing.
//!
//! `bench/README.md` has the command: callgrind counts inside [`hits`] alone. `LAMINA_HIT_LAYERS` (10),
//! `LAMINA_HIT_RULES` (1,000), `LAMINA_HIT_FLOWS` (1,000) and `LAMINA_HIT_BATCHES` (100) choose the run. The rig
//! copies each frame into its buffer inside the counted part; [`copies`], counted by itself, is that share.

mod rig;

use rig::{BATCH, Bench, frame};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[inline(never)]
fn hits(bench: &mut Bench, flows: u32, frames: &[[u8; 60]], batches: usize) {
    for _ in 0..batches {
        bench.send(flows, frames);
    }
}

fn main() {
    let layers = number("LAMINA_HIT_LAYERS", 10);
    let rules = number("LAMINA_HIT_RULES", 1_000);
    let flows = number("LAMINA_HIT_FLOWS", 1_000);
    let batches = number("LAMINA_HIT_BATCHES", 100);
    let frames: Vec<[u8; 60]> = (0..flows as u32).map(frame).collect();
    let mut bench = Bench::new(layers, rules, flows);
    bench.warm(flows as u32, &frames);
    let before = bench.hits();
    hits(&mut bench, flows as u32, &frames, batches);
    let hits = bench.hits() - before;
    assert_eq!(hits as usize, batches * BATCH, "every packet must be a hit");
    println!("{layers} layers, {rules} rules, {flows} flows: {hits} hits");
}
