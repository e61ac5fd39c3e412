//! `hansa`: the command line, and the composition of the parts into processes.

mod agent;
mod cli;
mod config;
mod data_dir;
mod disable;
mod enable;
mod explain;
mod federate;
mod gateway;
mod get;
mod host;
mod install;
mod invite;
mod klog;
mod kubeconfig;
mod kubefedctl;
mod log;
mod manifests;
mod membership;
mod orphaning;
mod output;
mod plan;
mod processes;
mod sandbox;
mod sandbox_agent;
mod tower;
mod up;
mod version;
mod webhook;

use std::{io, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

/// A roll-out to a hundred clusters allocates and frees in bursts; this gives the memory back, and costs a fifth less time for it, than the
/// system's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let klog::Arguments { rest, verbosity } = klog::arguments(std::env::args_os());
    let cli = Cli::parse_from(kubefedctl::arguments(rest));
    let log = log::begin(verbosity.map_or(log_filter(&cli.command), klog::filter));
    let mut runtime = match cli.command {
        // An agent is small: one thread is enough for it.
        Command::Agent(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log.finish(Some(&format!("error: cannot start: {error}")));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => {
            log.finish(None);
            code
        }
        Err(error) => {
            log.finish(Some(&format!("error: {error:#}")));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    let done = match command {
        Command::Plan(args) => return Ok(plan::run(args).await),
        Command::Explain { what } => explain::run(what).await,
        Command::Up(args) => up::run(args).await,
        Command::ControllerManager(args) => processes::controller_manager(args).await,
        Command::Apiserver(args) => processes::apiserver(args).await,
        Command::Webhook(args) => webhook::run(args).await,
        Command::Tower(args) => tower::run(args).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Install { host } => install::install(&host.client()?).await,
        Command::Join(args) => membership::join(args).await,
        Command::Unjoin(args) => membership::unjoin(args).await,
        Command::Enable(args) => enable::run(args).await,
        Command::Disable(args) => disable::run(args).await,
        Command::Federate(args) => federate::run(args).await,
        Command::OrphaningDeletion(args) => orphaning::run(args).await,
        Command::Kubefedctl(args) => kubefedctl::run(args).await,
        Command::Get(args) => get::run(args.what).await,
        Command::Kubeconfig(args) => kubeconfig::run(&args).await,
        Command::Manifests(args) => manifests::run(&args),
        Command::Version(args) => version::run(&args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hansa", &mut io::stdout());
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Servers log what they do; other commands only what went wrong.
fn log_filter(command: &Command) -> &'static str {
    match command {
        Command::ControllerManager(_)
        | Command::Apiserver(_)
        | Command::Webhook(_)
        | Command::Tower(_)
        | Command::Agent(_) => "info",
        Command::Kubefedctl(args) => args.log(),
        _ => "warn",
    }
}
