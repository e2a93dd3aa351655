//! How fast a running daemon takes policy over its API while packets flow through it, and whether one is lost.
//!
//! A daemon with two workers and its store on disk runs in a namespace of its own; two guests hang on it by veth pairs,
//! one on each worker. One guest sends numbered UDP packets to the other all the time, at a bounded rate, over several
//! flows, and each must arrive. They are allowed by one of 50,000 rules; the others are changed, one in each call. A call
//! is timed by its caller: from before the request is sent until the answer is there, and the answer comes when the change
//! is on the disk and every worker runs it. Then mappings are put in bulk.
//!
//! `cargo bench -p lamina --bench host_api -- --help` tells what can be changed. It must never touch the network of the
//! machine that it runs on.

mod figures;
mod policy;
mod rig;
mod traffic;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lamina_backend::namespace::may_make_namespaces;

use figures::Times;
use rig::{Client, Network};
use traffic::{Report, Traffic};

/// Measures the host API of a daemon under load. Needs root and the program `ip`.
#[derive(Parser)]
struct Arguments {
    /// Rules of the group.
    #[arg(long, default_value_t = 50_000)]
    rules: u32,
    /// Calls that change one rule each.
    #[arg(long, default_value_t = 5_000)]
    changes: u32,
    /// The least time from the beginning of one call to that of the next, in microseconds.
    #[arg(long, default_value_t = 2_000)]
    every: u64,
    /// Packets per second between the guests; 0 for none.
    #[arg(long, default_value_t = 50_000)]
    packets: u32,
    /// Flows that the packets belong to.
    #[arg(long, default_value_t = 64)]
    flows: u16,
    /// Mappings put at once, first such that are not kept, then durable ones.
    #[arg(long, default_value_t = 200_000)]
    mappings: u32,
    /// Times that the mappings are put, into a new table each time.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where the daemon's folder with its store is made; the system's folder for temporary files otherwise.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The daemon's nice value; that of the package's service unless given.
    #[arg(long, default_value_t = -10, allow_hyphen_values = true)]
    nice: i8,
    /// What the daemon logs.
    #[arg(long, default_value = "warn")]
    log: String,
    /// Handed over by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Handed over by `cargo xtask bench`: run only when it is part of `host_api`.
    #[arg(hide = true)]
    filter: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.filter.as_ref().is_some_and(|filter| !"host_api".contains(filter.as_str())) {
        return Ok(());
    }
    if !may_make_namespaces() {
        println!("skipped, because it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW");
        return Ok(());
    }
    ensure!((1..=policy::MAX_RULES).contains(&arguments.rules), "--rules: up to {}", policy::MAX_RULES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&arguments))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let folder = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
    let network = Network::build(&folder, &arguments.log, arguments.nice)?;
    let mut client = network.daemon.client().await?;
    client.apply(policy::ports()).await?;

    let begin = Instant::now();
    let reply = client.apply(policy::rules(0..arguments.rules, 80)).await?;
    let took = begin.elapsed();
    ensure!(reply.created == u64::from(arguments.rules), "not all rules were made: {reply:?}");
    println!(
        "{} rules in one transaction: {} after the end of the request, {} for the caller",
        arguments.rules,
        figures::time(Duration::from_nanos(reply.effective_after)),
        figures::time(took)
    );

    let every = Duration::from_micros(arguments.every);
    println!("the disk alone, 4 KiB written and its word asked for: {}", disk(&folder, every)?);

    let traffic = match arguments.packets {
        0 => None,
        rate => Some(Traffic::start(&network, rate, arguments.flows)?),
    };
    // The first packets of each flow go the slow way; they are part of the count, not of the times.
    std::thread::sleep(Duration::from_millis(200));
    let (calls, within) = change_rules(arguments, &mut client).await?;
    println!(
        "one rule of {}, {} calls, each begun {} or more after the one before:",
        arguments.rules,
        arguments.changes,
        figures::time(Duration::from_micros(arguments.every))
    );
    println!("  the call as its caller sees it: {calls}");
    println!("  within the daemon:              {within}");
    if let Some(traffic) = traffic {
        let report = traffic.stop()?;
        println!("  {report}");
        if report.lost() > 0 {
            println!("  drops of the daemon: {:?}", client.drops().await?);
        }
        check(&report)?;
    }
    mappings(arguments, &mut client).await?;
    network.daemon.stop()
}

/// Changes one rule after the other, none of them the one that lets the packets pass.
async fn change_rules(arguments: &Arguments, client: &mut Client) -> Result<(Times, Times)> {
    let (mut calls, mut within) = (Times::default(), Times::default());
    let every = Duration::from_micros(arguments.every);
    for number in 0..arguments.changes {
        let rule = policy::changed(number, arguments.rules);
        let operations = policy::rules(rule..rule + 1, 81 + number % 1000);
        let begin = Instant::now();
        let reply = client.apply(operations).await.context("a change was refused")?;
        calls.add(begin.elapsed());
        within.add(Duration::from_nanos(reply.effective_after));
        ensure!(reply.updated == 1, "a call changed something else than one rule: {reply:?}");
        tokio::time::sleep(every.saturating_sub(begin.elapsed())).await;
    }
    Ok((calls, within))
}

/// How long the disk takes to say that a block is there, which a durable change cannot be quicker than.
fn disk(folder: &Path, every: Duration) -> Result<Times> {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 256;
    let path = folder.join(format!("lamina-bench-{}.block", std::process::id()));
    let file = File::create(&path)?;
    // What is measured changes nothing but bytes.
    file.write_all_at(&[1; BLOCK * BLOCKS], 0)?;
    file.sync_all()?;
    let mut times = Times::default();
    for number in 0..1000 {
        let begin = Instant::now();
        file.write_all_at(&[2; BLOCK], (number % BLOCKS * BLOCK) as u64)?;
        file.sync_data()?;
        times.add(begin.elapsed());
        std::thread::sleep(every.saturating_sub(begin.elapsed()));
    }
    fs::remove_file(path)?;
    Ok(times)
}

/// A measurement in which nothing flowed, or something was lost, is none.
fn check(report: &Report) -> Result<()> {
    ensure!(report.sent > 0, "no packet was sent");
    ensure!(report.lost() == 0, "{} packets were lost", report.lost());
    Ok(())
}

async fn mappings(arguments: &Arguments, client: &mut Client) -> Result<()> {
    for is_transient in [true, false] {
        let mut rates = Vec::new();
        for round in 0..arguments.rounds {
            let table = format!("{}-{round}", if is_transient { "transient" } else { "durable" });
            client.apply(vec![policy::mapping_table(&table)]).await?;
            let entries = policy::entries(&table, arguments.mappings, is_transient);
            let reply = client.apply(entries).await?;
            let seconds = Duration::from_nanos(reply.effective_after).as_secs_f64();
            rates.push(f64::from(arguments.mappings) / seconds);
        }
        rates.sort_by(f64::total_cmp);
        let kind = if is_transient { "not kept over a restart" } else { "durable" };
        let [Some(least), Some(median)] = [rates.first(), rates.get(rates.len() / 2)] else { continue };
        println!(
            "{} mappings in one transaction, {kind}: {median:.0} per second, {least:.0} at least in {} rounds",
            arguments.mappings, arguments.rounds
        );
    }
    Ok(())
}
