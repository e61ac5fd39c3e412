//! The server: its parts, its start and its end.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{Auth, AuthError, Settings, StaticToken},
    controllers,
    documents::Documents,
    local::Local,
    registry::{Registry, policy},
    services::{Cidr, Services},
    store::{self, Facts, Key, Store},
    webhooks::Webhooks,
};

/// Where a server keeps its objects.
#[derive(Clone, Debug)]
pub enum Storage {
    /// In this file, which is made when there is none.
    File(PathBuf),
    /// In memory, for as long as the process lives.
    Memory,
}

/// How many requests are served at a time, so that a burst of some cannot starve the rest.
#[derive(Clone, Copy, Debug)]
pub struct Concurrency {
    /// Requests that read.
    pub reads: usize,
    /// Requests that write.
    pub writes: usize,
    /// Open watches.
    pub watches: usize,
    /// Requests that wait for one of these places.
    pub waiting: usize,
}

impl Default for Concurrency {
    /// kube-apiserver's own limits for requests; watches as its budget asks for.
    fn default() -> Self {
        Self { reads: 400, writes: 200, watches: 20_000, waiting: 2_000 }
    }
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where objects are kept.
    pub storage: Storage,
    /// The cluster's name, which its certificate authority bears.
    pub name: String,
    /// Names and addresses that the serving certificate is valid for, besides the usual ones.
    pub sans: Vec<String>,
    /// Tokens that are always accepted.
    pub tokens: Vec<StaticToken>,
    /// The addresses of Services, such as `10.96.0.0/16`.
    pub service_cidr: Cidr,
    /// Where clients reach the server; told by the `kubernetes` Service's endpoints.
    pub advertise: Option<SocketAddr>,
    /// How much is served at a time.
    pub concurrency: Concurrency,
}

impl Options {
    /// A server called `name` with the usual settings.
    pub fn new(name: impl Into<String>, storage: Storage) -> Self {
        Self {
            storage,
            name: name.into(),
            sans: Vec::new(),
            tokens: Vec::new(),
            service_cidr: Cidr::DEFAULT,
            advertise: None,
            concurrency: Concurrency::default(),
        }
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// Its keys and certificates cannot be made or read.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// What every cluster has could not be made.
    #[error("the cluster could not be set up: {0}")]
    Bootstrap(#[from] hansa_machinery::Status),
}

/// An embedded Kubernetes API server; clones share it.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) auth: Auth,
    pub(crate) services: Services,
    pub(crate) documents: Documents,
    pub(crate) webhooks: Webhooks,
    pub(crate) reads: Arc<Semaphore>,
    pub(crate) writes: Arc<Semaphore>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) waiting: Semaphore,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("name", &self.0.options.name).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the store, makes what every cluster has, and starts the controllers.
    ///
    /// # Errors
    /// When the store cannot be opened or written.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let store = match options.storage.clone() {
            Storage::Memory => Store::memory(),
            Storage::File(path) => {
                let opened = tokio::task::spawn_blocking(move || Store::open(path, facts)).await;
                opened.map_err(|e| {
                    hansa_machinery::Status::internal(format!("opening the store failed: {e}"))
                })??
            }
        };
        let settings = Settings {
            name: options.name.clone(),
            sans: options.sans.clone(),
            tokens: options.tokens.clone(),
        };
        let auth = Auth::open(store.clone(), settings).await?;
        let server = Self(Arc::new(Inner {
            auth,
            registry: Registry::new(),
            services: Services::new(options.service_cidr),
            documents: Documents::default(),
            webhooks: Webhooks::default(),
            reads: Arc::new(Semaphore::new(options.concurrency.reads)),
            writes: Arc::new(Semaphore::new(options.concurrency.writes)),
            watches: Arc::new(Semaphore::new(options.concurrency.watches)),
            waiting: Semaphore::new(options.concurrency.waiting),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            options,
            store,
        }));
        controllers::definitions::load(&server)?;
        server.0.services.load(&server.0.store);
        controllers::bootstrap::run(&server).await?;
        controllers::start(&server);
        Ok(server)
    }

    /// An in-process client with all rights.
    pub fn local(&self) -> Local {
        Local::new(self.clone())
    }

    /// Ends watches and controllers, finishes the writes that were asked for and releases the store.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.store.close().await;
    }

    /// Its security: authentication, authorisation, certificates.
    pub fn auth(&self) -> &Auth {
        &self.0.auth
    }

    /// The certificate of its authority, in PEM.
    pub fn ca_pem(&self) -> String {
        self.0.auth.ca_pem().to_owned()
    }

    /// How the server was set up.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// What it keeps.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Resolves when the server is being closed.
    pub(crate) async fn stopping(&self) {
        self.0.stop.cancelled().await;
    }

    /// Whether the server is being closed.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stop.is_cancelled()
    }

    /// Runs a background task until the server is closed.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// What selection and garbage collection need to know of an object without parsing it.
pub(crate) fn facts(key: &Key, object: &Value) -> Facts {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = metadata["labels"].as_object().into_iter().flatten();
    let fields = policy::selectable_fields(&key.resource).iter();
    let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let fields: BTreeMap<String, String> = fields
        .map(|field| ((*field).to_owned(), policy::field_value(&key.resource, object, field)))
        .collect();
    Facts {
        labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
        fields,
        uid: text(&metadata["uid"]),
        owners: owners.map(|owner| text(&owner["uid"])).collect(),
        deleting: metadata["deletionTimestamp"].is_string(),
    }
}
