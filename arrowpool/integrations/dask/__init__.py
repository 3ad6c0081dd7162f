"""The same pool on a Dask cluster: Dask moves data between nodes, arrowpool moves it within a node.

    from arrowpool.integrations.dask import Pool
    with Client("tcp://scheduler:8786") as client, Pool(client) as pool:
        pool.map(f, frames)

A node is one Dask worker process. Next to it runs a local pool, with as many processes as the Dask worker has threads:

    client process                                    node
    Pool - Feeder - Links -- Dask task: a batch -->   Node - local ArrowPool - task processes
              |       |                                 |
              |      Link <-- may these begin? -------- Line
          Deliveries  <------- sealed results ----------+

Objects travel sealed (`sealed`): taken apart in the client, put together in the process that runs the task. The Dask worker process
never unpickles them.
"""

from arrowpool import portable

if portable.missing() is not None:
    raise ImportError(f"a pool on a Dask cluster needs shared memory on the client and on the nodes; {portable.why()}")

from arrowpool.integrations.dask.pool import ClusterLostError, DaskPool, NodeError, NodeLostError, Pool

__all__ = ["ClusterLostError", "DaskPool", "NodeError", "NodeLostError", "Pool"]
