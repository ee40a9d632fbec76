import numpy as np, torch, torch.distributed as dist
class ClickMetrics:
    def __init__(self): self.s=[];self.l=[]
    def update(self,s,l,w): self.s.append(s.numpy().copy());self.l.append(l.numpy().copy())
    def compute(self):
        from sklearn.metrics import roc_auc_score, log_loss
        s=np.concatenate(self.s);l=np.concatenate(self.l)
        out=[None]*dist.get_world_size(); dist.all_gather_object(out,(s,l))
        s=np.concatenate([o[0] for o in out]);l=np.concatenate([o[1] for o in out])
        return {"auc":roc_auc_score(l,s),"logloss":log_loss(l,1/(1+np.exp(-s.astype(np.float64))))}
