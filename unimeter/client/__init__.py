"""The Python SDK.

values, times, periods   what an application hands in: events, metric definitions, spans of time
results                  what it gets back
batch                    events as bytes
protocol, decode         protocol v2 as bytes and maps, without a socket
session                  numbered batches: what makes a retry harmless
topology                 who leads which group, and which group an account is in
link, connector          one connection; finding the one to ask
exchange                 asking until there is an answer
ingest                   batches on their way, and what is concluded from their answers
blocking, shortcut       the short way of a blocking call, which needs no loop
async_client, client     the two front ends
"""
