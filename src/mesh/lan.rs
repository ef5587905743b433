#![allow(warnings)]
//! TEMP
use std::net::SocketAddr; use std::time::Instant; use crate::identity::*; use crate::membership::*; use crate::wire::record::*; use super::event::InterfaceSnapshot;
/// t
pub struct Beacons; pub enum Nearby { Device{device: DeviceId, address: SocketAddr}, Sponsor{invite: InviteId, wg: WgPublicKey, address: SocketAddr}, Joiner{invite: InviteId, address: SocketAddr} }
impl Beacons { pub fn new(_:DeviceId,_:u16,_:UnixTime,_:[u8;32],_:Instant)->Self{Self} pub fn handle_beacon(&mut self,_:SocketAddr,_:&[u8],_:Instant){} pub fn handle_timeout(&mut self,_:Instant){} pub fn poll_timeout(&self)->Option<(Instant,&'static str)>{None} pub fn poll_transmit(&mut self)->Option<Vec<u8>>{None} pub fn poll_event(&mut self)->Option<Nearby>{None} pub fn seek(&mut self,_:InviteId,_:&Rendezvous,_:Instant){} pub fn sponsor(&mut self,_:InviteId,_:&Rendezvous,_:Instant){} pub fn stop_seeking(&mut self,_:&InviteId,_:Instant){} pub fn set_secret(&mut self,_:NetworkSecret,_:Instant){} pub fn set_wall(&mut self,_:UnixTime,_:Instant){} pub fn handle_interfaces(&mut self,_:&InterfaceSnapshot,_:Instant){} }
