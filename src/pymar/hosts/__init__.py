"""Your hosts by one command: what is started there and here, and how it is found and ended.

names        hosts as users write them
up           up, add, remove, down
batch        workers that are jobs of Slurm or PBS
detached     scripts that run on a host without this one; bundle is what they take along, supervisor runs there
remote       a conversation with one host by ssh; onhost.py is the other end
packages     what is installed there
tunnel       a way back through ssh, for hosts that cannot connect to this one
broker       a RabbitMQ of one's own on this host
keeper       what starts it again when it has died
background   processes such as tunnels and keepers, which live on when the command has ended
certificate  its TLS certificate
schedulers   the hosts of an allocation of Slurm, PBS, LSF or Grid Engine; workers submitted as jobs
"""
