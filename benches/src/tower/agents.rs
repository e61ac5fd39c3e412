//! A tower with a thousand agents: what it takes, what an agent takes, and how soon all are back after the tower was killed.

use std::time::{Duration, Instant};

use futures::future::join_all;
use hansa_agent::Observer;
use tempfile::TempDir;

use super::{clients::skipped, say, site::Site, usage::resident};
use crate::client::block_on;

const AGENTS: usize = 1000;
/// How long they may take before it is said that they never came.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let mut site = Site::start(dir.path()).await;
        join_all((0..=AGENTS).map(|number| site.joined(number))).await;
        // One more, as users run it.
        let process = site.agent_process(AGENTS);
        site.answers(AGENTS).await;
        say("agents", "resident, an agent, idle", &resident(process.id()).to_string());
        let started = Instant::now();
        let mut agents: Vec<Observer> = (0..AGENTS).map(|number| site.agent(number)).collect();
        if !all(&mut agents, |connections| connections > 0).await {
            return skipped("tower agents", "not all agents were connected");
        }
        let took = started.elapsed().as_secs_f64();
        say("agents", &format!("{AGENTS} agents start at once and are connected"), &format!("{took:.1} s"));
        tokio::time::sleep(Duration::from_secs(5)).await;
        say(
            "agents",
            &format!("resident, a tower with {AGENTS} agents"),
            &resident(site.tower.id()).to_string(),
        );
        // All have noticed before there is a tower again, so that whoever is connected is back.
        site.tower.kill();
        assert!(all(&mut agents, |connections| connections == 0).await);
        let restarted = Instant::now();
        site.restart_tower();
        let back = all(&mut agents, |connections| connections > 0).await;
        assert!(back, "{}", site.tower.output());
        let took = restarted.elapsed().as_secs_f64();
        say(
            "agents",
            &format!("{AGENTS} agents are back after the tower was killed and restarted"),
            &format!("{took:.1} s"),
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
        say("agents", "resident, that tower", &resident(site.tower.id()).to_string());
        drop(process);
        site.end().await;
    });
}

async fn all(agents: &mut [Observer], wanted: fn(usize) -> bool) -> bool {
    let each = agents.iter_mut().map(|agent| agent.until(|standing| wanted(standing.connections)));
    tokio::time::timeout(PATIENCE, join_all(each)).await.is_ok()
}
