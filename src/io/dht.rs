#![allow(warnings)]
//! TEMP
use std::net::*; use tokio::sync::mpsc; use crate::mesh::event::DhtInput; use crate::wire::record::*;
/// t
pub struct Dht; pub struct DhtConfig{pub bootstrap: Option<Vec<String>>, pub port:u16, pub cached: Vec<SocketAddrV4>}
impl Dht { pub async fn start(_:DhtConfig)->std::io::Result<(Self, mpsc::Receiver<DhtInput>)>{ todo!() } pub fn publish(&self,_:SignedItem){} pub fn lookup(&self,_:DhtKey){} pub fn nodes(&self)->Vec<SocketAddrV4>{vec![]} }
/// t
pub async fn run_node(_:SocketAddrV4,_:Vec<String>)->anyhow::Result<()>{todo!()}
